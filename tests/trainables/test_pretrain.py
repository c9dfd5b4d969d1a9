"""The training loop: it learns, it is repeatable, and an interruption leaves no trace."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables import components
from trainables.architectures import layout_of
from trainables.feed import to_float
from trainables.mixture import mixture_of
from trainables.pretrain import Diverged, augment, learning_rate, pretrain
from trainables.spec import Architecture, Mixture, Ordering, PretrainSpec, Source, Training

CPU = torch.device("cpu")
OTHER = {torch.channels_last: torch.contiguous_format, torch.contiguous_format: torch.channels_last}


@pytest.fixture(scope="module")
def digits():
    return components.prepare(Source(dataset="digits"))


@pytest.fixture(scope="module")
def odd(digits):
    """Another component: five of the classes, so that a joint head has fifteen outputs."""
    return components.prepare(Source(dataset="digits", classes=(1, 3, 5, 7, 9)))


def specified(digits, odd, **changes):
    training = {"steps": 60, "batch_size": 32, **changes.pop("training", {})}
    weights = changes.pop("weights", {"digits": 2, "odd": 1})
    mixture = changes.pop("mixture", None) or mixture_of(
        weights,
        {"digits": digits, "odd": odd},
        num_examples=training["steps"] * training["batch_size"],
        train_examples=None,
        label_space="joint",
    )
    spec = {
        "mixture": mixture,
        "architecture": Architecture(name="mlp", image_shape=digits.image_shape),
        "training": Training(**training),
        "seed": 0,
    }
    return PretrainSpec(**(spec | changes))


def finished(spec, **options):
    return ended(pretrain(spec, [components.load(s.component) for s in spec.mixture.shares], device=CPU, **options))


def ended(run):
    while True:
        try:
            next(run)
        except StopIteration as end:
            return end.value


def same(first, second):
    a, b = first.network.state_dict(), second.network.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Memory:
    """Keeps a state in memory."""

    def __init__(self):
        self.kept = None

    def save(self, tensors, meta):
        self.kept = {k: v.detach().clone() for k, v in tensors.items()}, dict(meta)

    def load(self):
        return self.kept


def test_a_network_trained_for_a_second_is_far_above_chance(digits, odd):
    spec = specified(digits, odd, weights={"digits": 1}, training={"steps": 300})
    run = finished(spec)
    test = components.load(digits).test
    with torch.no_grad():
        logits = run.network(to_float(test.images, (-1, 1)))
    assert float((logits.argmax(1) == test.labels).double().mean()) > 0.85
    assert run.loss_curve[-1][0] == 300
    assert run.loss_curve[-1][1] < run.loss_curve[0][1] / 4


def test_a_joint_head_has_an_output_for_every_class_of_every_component(digits, odd):
    assert finished(specified(digits, odd)).network.head.out_features == 15


def test_the_same_spec_gives_the_same_weights_and_another_seed_others(digits, odd):
    spec = specified(digits, odd, training={"augment": ("flip", "crop")})
    assert same(finished(spec), finished(spec))
    assert not same(finished(spec), finished(specified(digits, odd, seed=1)))


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"optimizer": "adamw", "learning_rate": 1e-3, "schedule": "one_cycle"},
        {"augment": ("flip", "crop"), "label_smoothing": 0.1, "weight_decay": 1e-3},
    ],
)
@pytest.mark.parametrize("architecture", ["mlp", "cnn"])
def test_an_interrupted_run_taken_up_again_ends_at_the_same_weights(digits, odd, training, architecture):
    network = Architecture(name=architecture, width=0.5, image_shape=digits.image_shape)
    spec = specified(digits, odd, architecture=network, training=training)
    memory = Memory()
    data = [components.load(s.component) for s in spec.mixture.shares]
    run = pretrain(spec, data, device=CPU, saver=memory, report_every_s=0)
    for _ in range(17):
        next(run)
    run.close()
    assert memory.kept[1]["step"] == "17"
    again = pretrain(spec, data, device=CPU, saver=memory, report_every_s=0)
    assert next(again).step == 18, "it goes on from where it was"
    taken_up, whole = ended(again), finished(spec)
    assert same(taken_up, whole)
    assert taken_up.loss_curve == whole.loss_curve


def test_a_network_with_dropout_is_repeatable_and_can_be_taken_up_again(digits, odd):
    network = Architecture(name="squeezenet1_1", image_shape=(1, 32, 32))
    big = components.prepare(Source(dataset="digits", image_size=(32, 32)))
    mixture = mixture_of({"a": 1}, {"a": big}, num_examples=12, train_examples=None, label_space="joint")
    spec = specified(digits, odd, mixture=mixture, architecture=network, training={"steps": 3, "batch_size": 4})
    memory = Memory()
    run = pretrain(spec, [components.load(big)], device=CPU, saver=memory, report_every_s=0)
    next(run)
    run.close()
    before = torch.get_rng_state()
    again = pretrain(spec, [components.load(big)], device=CPU, saver=memory, report_every_s=0)
    assert next(again).step == 2
    assert same(ended(again), finished(spec))
    assert torch.equal(before, torch.get_rng_state())


def test_an_ordering_changes_the_result_and_a_curriculum_runs(digits, odd):
    contents = (digits.content, odd.content)
    sequential = specified(digits, odd, ordering=Ordering(kind="sequential", sequence=contents))
    assert not same(finished(sequential), finished(specified(digits, odd)))
    assert math.isfinite(finished(specified(digits, odd, ordering=Ordering(kind="curriculum"))).loss_curve[-1][1])


@pytest.mark.parametrize("architecture", ["cnn", "resnet18"])
def test_another_layout_in_memory_changes_a_run_by_rounding_only(digits, odd, architecture, monkeypatch):
    """A run that is interrupted between the two goes on as well."""
    network = Architecture(name=architecture, width=1 / 8, image_shape=digits.image_shape)
    # With longer steps a few of them make any rounding as large as the weights.
    spec = specified(digits, odd, architecture=network, training={"steps": 6, "learning_rate": 1e-3})
    plain, memory = finished(spec), Memory()
    run = pretrain(
        spec, [components.load(s.component) for s in spec.mixture.shares], device=CPU, saver=memory, report_every_s=0
    )
    next(run)
    run.close()
    monkeypatch.setattr("trainables.pretrain.layout_of", lambda *_: OTHER[layout_of(network, CPU)])
    for found in (finished(spec), finished(spec, saver=memory)):
        assert all(value.is_contiguous() for value in found.network.state_dict().values())
        for name, value in found.network.state_dict().items():
            torch.testing.assert_close(value, plain.network.state_dict()[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "width", "convolutions"), [("resnet18", 1 / 8, 20), ("cnn", 1 / 2, 4)])
def test_a_network_that_gains_by_it_is_trained_channels_last_on_a_cpu(digits, odd, name, width, convolutions):
    def strides(network):
        seen.append([p.is_contiguous(memory_format=torch.channels_last) for p in network.parameters() if p.dim() == 4])

    seen = []
    network = Architecture(name=name, width=width, image_shape=digits.image_shape)
    finished(specified(digits, odd, architecture=network, training={"steps": 2}), checkpoints={1: strides})
    assert seen[0] == [True] * convolutions


def test_images_and_filters_lie_channels_last_where_that_is_faster():
    gpu, shape = torch.device("cuda"), (3, 32, 32)
    cnn, resnet = (Architecture(name=name, image_shape=shape) for name in ("cnn", "resnet18"))
    assert layout_of(cnn, gpu, "bfloat16") is layout_of(resnet, gpu, "bfloat16") is torch.channels_last
    assert layout_of(cnn, gpu) is layout_of(resnet, gpu) is torch.contiguous_format
    assert layout_of(cnn, CPU) is layout_of(cnn, CPU, "bfloat16") is torch.channels_last
    assert layout_of(replace(cnn, width=1 / 4), CPU) is torch.contiguous_format
    assert layout_of(resnet, CPU) is layout_of(replace(resnet, name="mobilenet_v2"), CPU) is torch.channels_last
    assert layout_of(replace(resnet, name="python:here:made"), CPU) is torch.contiguous_format


def test_zero_steps_leave_the_initialisation(digits, odd):
    nothing = specified(digits, odd, mixture=Mixture(shares=()), training={"steps": 0})
    run = finished(nothing)
    assert run.network.head is None
    assert run.loss_curve == ()


def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_step(digits, odd):
    with pytest.raises(Diverged) as caught:
        finished(specified(digits, odd, training={"learning_rate": 1e30}))
    assert 0 < caught.value.step < 60


@given(st.integers(1, 3000), st.sampled_from(["constant", "cosine", "one_cycle"]), st.floats(0, 0.5))
def test_a_schedule_stays_between_zero_and_its_peak(steps, schedule, warmup):
    training = Training(steps=steps, schedule=schedule, warmup_share=warmup, learning_rate=0.2)
    rates = [learning_rate(training, step) for step in range(steps)]
    assert all(0 < rate <= 0.2 for rate in rates)


def test_schedules_by_hand():
    def rates(schedule, **options):
        return [
            round(learning_rate(Training(steps=4, learning_rate=1.0, schedule=schedule, **options), s), 4)
            for s in range(4)
        ]

    assert rates("constant") == [1, 1, 1, 1]
    assert rates("cosine") == [1, 0.8536, 0.5, 0.1464]
    assert rates("constant", warmup_share=0.5) == [0.3333, 0.6667, 1, 1]
    assert rates("one_cycle") == [0.4545, 0.9091, 0.7143, 0.3571]


@given(st.integers(0, 100))
def test_augmentation_moves_pixels_and_invents_none(seed):
    x = torch.arange(2 * 8 * 8, dtype=torch.float32).view(2, 1, 8, 8)
    generator = torch.Generator().manual_seed(seed)
    y = augment(x, ("flip", "crop"), generator)
    assert y.shape == x.shape
    for before, after in zip(x, y, strict=True):
        assert set(after.unique().tolist()) <= set(before.unique().tolist())


def test_bytes_stand_for_floats_in_their_range():
    bytes_ = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert to_float(bytes_, (-3, 3)).tolist() == pytest.approx([-3, -1.8, 3])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("training", [{}, {"optimizer": "adamw", "precision": "bfloat16"}])
def test_captured_steps_on_a_gpu_end_at_the_weights_of_steps_that_are_not(digits, odd, training, monkeypatch):
    network = Architecture(name="cnn", width=0.5, image_shape=digits.image_shape)
    spec = specified(digits, odd, architecture=network, training={"steps": 20, **training})
    data = [components.load(share.component) for share in spec.mixture.shares]
    plain = ended(pretrain(spec, data, device=torch.device("cuda")))
    monkeypatch.setenv("BOTTLENECK_CUDA_GRAPHS", "1")
    captured = ended(pretrain(spec, data, device=torch.device("cuda")))
    for name, value in captured.network.state_dict().items():
        torch.testing.assert_close(value, plain.network.state_dict()[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_streamed_images_train_to_the_same_weights_as_resident_ones(tmp_path):
    """Decoding workers read ahead in stream order, so where images come from changes nothing."""
    import json

    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()
    for index, (pixels, label) in enumerate(zip(found.images[:200], found.target[:200], strict=True)):
        split = "test" if index >= 150 else "train"
        folder = tmp_path / split / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15).astype("uint8")).save(folder / f"{index}.png")
    runs = []
    for resident in (True, False):
        options = json.dumps({"root": str(tmp_path), "resident": resident}, sort_keys=True)
        source = Source(dataset="image_folder", options=options, image_size=(8, 8), channels=1)
        component = components.prepare(source)
        mixture = mixture_of({"a": 1}, {"a": component}, num_examples=160, train_examples=None, label_space="joint")
        spec = PretrainSpec(
            mixture=mixture,
            architecture=Architecture(name="mlp", image_shape=(1, 8, 8)),
            training=Training(steps=10, batch_size=16),
            seed=0,
        )
        # The two differ in content, which seeds the draws: here the draws are to be the same.
        data = components.load(component)
        object.__setattr__(component, "content", "same")
        runs.append(ended(pretrain(spec, [data], device=CPU)))
    assert same(*runs)
