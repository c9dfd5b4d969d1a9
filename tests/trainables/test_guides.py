"""What teachers tell a run: imitation, new weights and offsets by hand, and runs that end where they should."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trainables import components
from trainables.architectures import Network, build
from trainables.feed import Feed, to_float
from trainables.guides import GUIDES, MAX_WEIGHT, SHARE, guide
from trainables.mixture import mixture_of
from trainables.ordering import index_stream
from trainables.pretrain import pretrain
from trainables.probe import extract, linear_probe
from trainables.spec import Architecture, Guide, PretrainSpec, Source, Training

CPU = torch.device("cpu")
KINDS = sorted(GUIDES)


@pytest.fixture(scope="module")
def digits():
    return components.prepare(Source(dataset="digits"))


@pytest.fixture(scope="module")
def odd():
    return components.prepare(Source(dataset="digits", classes=(1, 3, 5, 7, 9)))


def specified(
    weights, *, kind="complement", teachers=1, strength=1.0, steps=20, train_examples=None, seed=0, **training
):
    """A guided run on the components that have a weight; its teachers are the same run without a guide."""
    known = {component.content: component for component, _ in weights}
    mixture = mixture_of(
        {component.content: weight for component, weight in weights},
        known,
        num_examples=steps * 32,
        train_examples=train_examples,
        label_space="joint",
    )
    image_shape = weights[0][0].image_shape
    spec = PretrainSpec(
        mixture=mixture,
        architecture=Architecture(name="mlp", image_shape=image_shape),
        training=Training(steps=steps, **{"batch_size": 32, **training}),
        seed=0,
    )
    plain = tuple(replace(spec, seed=100 + number) for number in range(teachers))
    return replace(spec, guide=Guide(kind=kind, teachers=plain, strength=strength))


def loaded(spec):
    return [components.load(share.component) for share in spec.mixture.shares]


def trained(spec, teachers=(), **options):
    return ended(pretrain(spec, loaded(spec), device=CPU, teachers=teachers, **options)).network


def ended(run):
    while True:
        try:
            next(run)
        except StopIteration as end:
            return end.value


def untrained(spec, seed):
    return build(spec.architecture, spec.mixture.num_classes, seed).eval()


def always(spec, answer, num_classes=None):
    """A teacher that gives the same answer to everything."""
    num_classes = num_classes or spec.mixture.num_classes
    pixels = int(np.prod(spec.architecture.image_shape))
    head = nn.Linear(pixels, num_classes)
    nn.init.zeros_(head.weight)
    head.bias.data = 5 * F.one_hot(torch.tensor(answer), num_classes).float()
    return Network(nn.Flatten(), head, pixels)


def guidance(spec, teachers):
    return guide(spec, teachers, untrained(spec, spec.seed), loaded(spec), CPU)


def batches(spec):
    """What the training loop is shown: images, labels and rows."""
    stream = index_stream(spec.mixture, spec.ordering, spec.seed, None, spec.pool_seed)
    return Feed(stream, spec.mixture, loaded(spec), spec.training.batch_size, CPU).batches(0)


def distinct_examples(spec):
    """Images, labels and rows of every example that is shown, once."""
    x, y, rows = (torch.cat(parts) for parts in zip(*batches(spec), strict=True))
    first = torch.from_numpy(np.unique(rows.numpy(), return_index=True)[1])
    return x[first], y[first], rows[first]


def same(first, second):
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# All guides -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_at_strength_0_a_guided_run_ends_at_the_weights_of_a_plain_one(digits, kind):
    spec = specified([(digits, 1)], kind=kind, strength=0.0, label_smoothing=0.1)
    teachers = [trained(teacher) for teacher in spec.guide.teachers]
    assert same(trained(spec, teachers), trained(replace(spec, guide=None)))
    assert not same(trained(replace(spec, guide=replace(spec.guide, strength=1.0)), teachers), trained(spec, teachers))


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_guided_run_taken_up_again_ends_at_the_same_weights(digits, odd, kind):
    spec = specified([(digits, 2), (odd, 1)], kind=kind, teachers=2)
    teachers = [trained(teacher) for teacher in spec.guide.teachers]

    class Memory:
        kept = None

        def save(self, tensors, meta):
            self.kept = {k: v.detach().clone() for k, v in tensors.items()}, dict(meta)

        def load(self):
            return self.kept

    memory, before = Memory(), torch.get_rng_state()
    run = pretrain(spec, loaded(spec), device=CPU, teachers=teachers, saver=memory, report_every_s=0)
    for _ in range(7):
        next(run)
    run.close()
    assert memory.kept[1]["step"] == "7"
    assert same(trained(spec, teachers, saver=memory), trained(spec, teachers))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", KINDS)
def test_every_teacher_sees_every_distinct_example_once_and_stays_as_it_is(digits, odd, kind):
    spec = specified([(digits, 2), (odd, 1)], kind=kind, teachers=2, train_examples=60)
    teachers = [untrained(spec, 1).train(), untrained(spec, 2)]
    before, seen = [copy.deepcopy(teacher) for teacher in teachers], []
    for teacher in teachers:
        teacher.features.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    guidance(spec, teachers)
    # Pools of 40 and 20 examples, two teachers.
    assert sum(seen) == spec.guided_examples == 120
    assert all(same(teacher, kept) for teacher, kept in zip(teachers, before, strict=True))
    assert [teacher.training for teacher in teachers] == [True, False]


def test_a_guide_that_cannot_be_followed_says_what_to_do(digits):
    spec = specified([(digits, 1)])
    teachers = [untrained(spec, 1)]
    with pytest.raises(ValueError, match="unknown guide 'distill'; known are distil, reweight, complement"):
        guidance(replace(spec, guide=replace(spec.guide, kind="distill")), teachers)
    for strength in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite and at least 0"):
            guidance(replace(spec, guide=replace(spec.guide, strength=strength)), teachers)
    with pytest.raises(ValueError, match=r"compares 10 classes with a teacher's 7; .* choose `distil`"):
        guidance(spec, [always(spec, 0, num_classes=7)])
    guidance(replace(spec, guide=replace(spec.guide, kind="distil")), [always(spec, 0, num_classes=7)])


# distil -----------------------------------------------------------------------------------------------------------


def test_a_distilled_network_predicts_its_teachers_features_better_than_a_plain_one(digits):
    spec = specified([(digits, 1)], kind="distil", teachers=2, strength=4.0, steps=300)
    teachers = [trained(teacher) for teacher in spec.guide.teachers]
    data = loaded(spec)[0]
    x = [to_float(data.test.images, data.value_range)]
    known = torch.cat([extract(teacher.features, x) for teacher in teachers], 1).double().numpy()

    def unexplained(network):
        """Share of the teachers' variance that is left by least squares."""
        features = extract(network.features, x).double().numpy()
        features = np.column_stack([features, np.ones(len(features))])
        rest = known - features @ np.linalg.lstsq(features, known, rcond=1e-6)[0]
        return rest.var(0).sum() / known.var(0).sum()

    student = replace(spec, architecture=replace(spec.architecture, width=0.25))
    assert unexplained(trained(student, teachers)) < 0.7 * unexplained(trained(replace(student, guide=None)))


def test_a_distillation_head_that_has_learnt_nothing_has_an_error_of_1(digits, odd):
    spec = specified([(digits, 2), (odd, 1)], kind="distil", teachers=2, strength=3.0, train_examples=60)
    teachers = [untrained(spec, 1), untrained(spec, 2)]
    found = guidance(spec, teachers)
    for parameter in found.modules.parameters():
        nn.init.zeros_(parameter)
    x, y, rows = distinct_examples(spec)
    assert len(rows) == 60
    loss = found.loss(torch.randn(60, 64), torch.zeros(60, 15), y, rows).detach()
    # A unit that is never active has no error.
    active = [float((extract(teacher.features, [x]).amax(0) > 0).double().mean()) for teacher in teachers]
    assert float(loss) == pytest.approx(np.log(15) + 3 * np.mean(active), rel=1e-4)


# reweight ---------------------------------------------------------------------------------------------------------


def test_what_a_teacher_gets_right_and_wrong_count_the_same(digits):
    spec = specified([(digits, 1)], kind="reweight", teachers=2, steps=100)
    found = guidance(spec, [always(spec, 0), always(spec, 3)])
    labels = loaded(spec)[0].train.labels.numpy()
    n, n0, n3 = len(labels), (labels == 0).sum(), (labels == 3).sum()
    for y, others in ((0, n / (2 * n0) + n / (2 * (n - n3))), (3, n / (2 * (n - n0)) + n / (2 * n3))):
        row = torch.from_numpy((labels == y).nonzero()[0][:1])
        loss = found.loss(torch.zeros(1, 64), torch.zeros(1, 10), torch.tensor([y]), row)
        assert float(loss) == pytest.approx(np.log(10) * others / 2, rel=1e-5)


def test_a_teacher_without_a_mistake_changes_nothing():
    easy = components.prepare(Source(dataset="digits", classes=(0, 1)))
    spec = specified([(easy, 1)], kind="reweight", steps=60, train_examples=40)
    teacher = trained(replace(spec, guide=None))
    found = guidance(spec, [teacher])
    for x, y, rows in batches(spec):
        assert bool((teacher(x).argmax(1) == y).all())
        assert float(found.loss(torch.zeros(32, 64), torch.zeros(32, 2), y, rows)) == pytest.approx(np.log(2))


def test_a_handful_of_examples_does_not_outweigh_all_others(digits, odd):
    spec = specified([(digits, 98), (odd, 2)], kind="reweight", steps=100, train_examples=500)
    contents = [share.component.content for share in spec.mixture.shares]
    rare = spec.mixture.label_offsets[contents.index(odd.content)]
    _, y, rows = distinct_examples(spec)
    share = float((y == rare).double().mean())
    assert 0 < share < 1 / (2 * MAX_WEIGHT)
    found = guidance(spec, [always(spec, rare)])
    losses = [found.loss(torch.zeros(1, 64), torch.zeros(1, 15), y[[i]], rows[[i]]) for i in range(len(y))]
    weights = torch.stack(losses) / np.log(15)
    assert float(weights.mean()) == pytest.approx(1, rel=1e-4)
    ratio = float(weights[y == rare].mean() / weights[y != rare].mean())
    assert ratio == pytest.approx(MAX_WEIGHT * 2 * (1 - share), rel=1e-4)


# complement -------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4), st.integers(0, 1), st.floats(0, 2))
@settings(max_examples=20)
def test_a_complement_adds_to_the_logits_of_its_teachers(logits, y, strength):
    """By hand, for two classes: the loss is softplus of minus the margin, and margins add up."""
    component = components.prepare(Source(dataset="digits", classes=(0, 1)))
    spec = specified([(component, 1)], teachers=2, strength=strength)
    first, second = always(spec, 0), always(spec, 1)
    first.head.bias.data, second.head.bias.data = torch.tensor([1.0, -1.0]), torch.tensor([0.5, 3.0])
    found = guidance(spec, [first, second])
    z = torch.tensor(logits).view(2, 2)
    _, _, rows = next(batches(spec))
    margins = (z[:, 0] - z[:, 1]) + SHARE * strength * ((1 - -1) + (0.5 - 3.0))
    expected = F.softplus(-margins if y == 0 else margins).mean()
    loss = found.loss(torch.zeros(2, 64), z, torch.tensor([y, y]), rows[:2])
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)


@given(st.floats(-100, 100))
@settings(max_examples=10)
def test_a_constant_on_all_logits_of_a_teacher_changes_nothing(digits, constant):
    spec = specified([(digits, 1)])
    teacher = untrained(spec, 1)
    shifted = copy.deepcopy(teacher)
    shifted.head.bias.data += constant
    x, y, rows = next(batches(spec))
    logits = untrained(spec, 2)(x).detach()
    losses = [guidance(spec, [t]).loss(torch.zeros(32, 64), logits, y, rows) for t in (teacher, shifted)]
    assert float(losses[0]) == pytest.approx(float(losses[1]), abs=1e-4)


def test_an_example_is_told_what_the_teacher_makes_of_that_very_example(digits, odd):
    spec = specified([(digits, 2), (odd, 1)], train_examples=90)
    teacher = untrained(spec, 1)
    found = guidance(spec, [teacher])
    for x, y, rows in batches(spec):
        with torch.no_grad():
            known = teacher(x)
        expected = F.cross_entropy(SHARE * known, y)
        assert float(found.loss(torch.zeros(32, 64), torch.zeros(32, 15), y, rows)) == pytest.approx(float(expected))


def test_a_complement_keeps_more_of_the_view_that_the_first_network_has_no_use_for():
    """Both views of dominoes show the class, the left one without noise: it satisfies the loss on its own."""
    both = components.prepare(Source(dataset="dominoes", train_examples=8000, test_examples=10))
    options = '{"informative": "right"}'
    right = components.prepare(Source(dataset="dominoes", options=options, train_examples=2000, test_examples=1000))
    spec = specified([(both, 1)], steps=400, batch_size=32, learning_rate=0.1)
    data = components.load(right)

    def worth(network):
        splits = [
            (extract(network.features, [to_float(split.images, data.value_range)]), split.labels)
            for split in (data.train, data.validation, data.test)
        ]
        return linear_probe(*splits, 10, (1e-2,)).test_accuracy

    first = trained(spec.guide.teachers[0])
    plain, complement = worth(trained(replace(spec, guide=None))), worth(trained(spec, [first]))
    assert complement > plain + 0.05
