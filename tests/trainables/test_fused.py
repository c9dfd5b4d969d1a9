"""Runs that are trained as one end where each would have ended alone."""

import copy
import math
import time
from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_architectures import narrow
from test_pretrain import CPU, Memory, ended, finished, same, specified

from trainables import components, fused
from trainables.architectures import ARCHITECTURES
from trainables.feed import Feed
from trainables.memory import OutOfMemory
from trainables.mixture import mixture_of
from trainables.ordering import index_stream
from trainables.pretrain import Diverged, pretrain
from trainables.spec import Architecture, Ordering, Source

# Rounding of float32 grows from step to step. After three of them weights differed by at most 8e-7 (resnet50; most by
# 2e-7), losses by 8e-7 of themselves. A GPU may multiply in TF32, whose rounding is a thousand times coarser.
STEPS, TOLERANCE, TOLERANCE_ON_A_GPU = 3, 1e-5, 1e-2


@pytest.fixture(scope="module")
def digits():
    return components.prepare(Source(dataset="digits"))


@pytest.fixture(scope="module")
def odd(digits):
    return components.prepare(Source(dataset="digits", classes=(1, 3, 5, 7, 9)))


def data_of(spec):
    return [components.load(share.component) for share in spec.mixture.shares]


def together(specs, device=CPU, **options):
    return ended(fused.pretrain_all(specs, [data_of(spec) for spec in specs], device=device, **options))


def replicates(digits, odd, count=3, **changes):
    return [replace(specified(digits, odd, **changes), seed=seed) for seed in range(count)]


def apart(one, other):
    """The largest difference of two states, over the largest number of the tensor that it is in."""
    a, b = one.network.state_dict(), other.network.state_dict()
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max()) / max(1.0, float(a[k].abs().max())) for k in a)


def assert_equal(runs, specs, tolerance=TOLERANCE):
    for run, spec in zip(runs, specs, strict=True):
        alone = finished(spec)
        assert apart(run, alone) < tolerance
        assert [step for step, _ in run.loss_curve] == [step for step, _ in alone.loss_curve]
        losses, expected = ([loss for _, loss in found.loss_curve] for found in (run, alone))
        assert losses == pytest.approx(expected, rel=10 * tolerance)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_ends_in_a_stack_where_it_ends_alone(digits, odd, name, monkeypatch):
    """Batch statistics are among the state: those of every row are its own.

    In one layout: a stack's rounds as the channels-first one does, and batch norm over eight pixels of a resnet50 makes
    4e-4 of another rounding in three steps.
    """
    monkeypatch.setattr("trainables.pretrain.layout_of", lambda *_: torch.contiguous_format)
    specs = replicates(
        digits,
        odd,
        architecture=narrow(name, digits.image_shape),
        training={"steps": STEPS, "batch_size": 8, "learning_rate": 0.01, "weight_decay": 1e-3},
    )
    assert_equal(together(specs), specs)


@pytest.mark.parametrize("name", ["cnn", "mlp", "vit_tiny"])
def test_in_double_precision_a_stack_is_equal_to_twelve_digits(digits, odd, name, monkeypatch):
    """So that what is left in single precision is rounding, and nothing else."""
    build = fused.build
    for module in (fused, pretrain.__globals__):
        target = module if isinstance(module, dict) else vars(module)
        monkeypatch.setitem(target, "build", lambda *a: build(*a).double())
        monkeypatch.setitem(target, "augment", lambda x, *_: x.double())
    specs = replicates(
        digits,
        odd,
        architecture=narrow(name, digits.image_shape),
        training={"steps": 20, "batch_size": 16, "augment": ("flip",)},
    )
    assert_equal(together(specs), specs, 1e-12)
    assert apart(together(specs)[0], finished(specs[1])) > 0.01, "rows differ"


@pytest.mark.parametrize(
    "training",
    [
        {"augment": ("flip", "crop"), "label_smoothing": 0.1},
        {"augment": ("crop",), "optimizer": "adamw", "learning_rate": 1e-3, "schedule": "one_cycle"},
        {"deficit": "noise", "deficit_window": (0.0, 0.5), "momentum": 0.0},
    ],
)
def test_rows_draw_what_runs_draw_alone(digits, odd, training):
    specs = replicates(digits, odd, training={"steps": 10, "batch_size": 16, "learning_rate": 0.02, **training})
    assert_equal(together(specs), specs)


def test_in_bfloat16_rounding_is_coarser_and_there_is_nothing_else(digits, odd):
    training = {"steps": 5, "batch_size": 16, "learning_rate": 0.02, "precision": "bfloat16"}
    specs = replicates(digits, odd, architecture=narrow("cnn", digits.image_shape), training=training)
    assert_equal(together(specs), specs, 2e-2)


def test_mixtures_orderings_and_baselines_of_equal_heads_are_one_stack(digits, odd):
    training = {"steps": 10, "batch_size": 16, "learning_rate": 0.02}
    contents = (digits.content, odd.content)
    mixed = [
        specified(digits, odd, training=training),
        specified(digits, odd, training=training, weights={"digits": 1, "odd": 5}, seed=1),
        specified(digits, odd, training=training, ordering=Ordering(kind="sequential", sequence=contents)),
        specified(digits, odd, training=training, ordering=Ordering(kind="curriculum")),
    ]
    assert len({fused.shape(spec) for spec in mixed}) == 1
    assert_equal(together(mixed), mixed)
    baseline = specified(digits, odd, training=training, weights={"digits": 1})
    assert fused.shape(baseline) != fused.shape(mixed[0]), "its head has ten outputs, not fifteen"


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=4),
    st.integers(0, 8),
    st.integers(1, 4),
)
def test_a_stack_is_shown_what_its_runs_are_shown_alone_byte_for_byte(digits, odd, drawn, first, block):
    """In the same order too, whichever components each has, from wherever it is taken up."""
    specs = [
        specified(digits, odd, seed=seed, weights={"digits": a, "odd": b}, training={"steps": 9, "batch_size": 6})
        for seed, a, b in drawn
    ]
    with mock.patch.object(fused, "BLOCK", block):
        found = list(fused._Feed(specs, [data_of(spec) for spec in specs], CPU).batches(first, 9))
    for row, spec in enumerate(specs):
        stream = index_stream(spec.mixture, spec.ordering, spec.seed)
        alone = list(Feed(stream, spec.mixture, data_of(spec), 6, CPU).batches(first, 9))
        assert len(found) == len(alone) == 9 - first
        for (x, y), (its_x, its_y, _) in zip(found, alone, strict=True):
            assert torch.equal(x.view(len(specs), 6, 1, 8, 8)[row], its_x)
            assert torch.equal(y.view(len(specs), 6)[row], its_y)


def test_a_run_that_diverges_leaves_the_others_alone(digits, odd):
    """The one that is shown images whose pixels are as large as numbers go."""
    wild = components.prepare(Source(dataset="digits", classes=tuple(range(9, -1, -1))))
    mixture = mixture_of({"wild": 1}, {"wild": wild}, num_examples=160, train_examples=None, label_space="joint")
    specs = replicates(digits, odd, weights={"digits": 1}, training={"steps": 10, "batch_size": 16})
    specs[1] = replace(specs[1], mixture=mixture)
    data = [data_of(spec) for spec in specs]
    data[1] = [replace(data[1][0], value_range=(0.0, 1e38))]
    first, second, third = ended(fused.pretrain_all(specs, data, device=CPU))
    assert isinstance(second, Diverged)
    with pytest.raises(Diverged) as alone:
        ended(pretrain(specs[1], data[1], device=CPU))
    assert second.step == alone.value.step
    assert_equal([first, third], [specs[0], specs[2]])


def test_what_is_in_a_row_does_not_depend_on_the_others(digits, odd):
    """So that a run of a stack can be repeated to the last bit without the runs beside it."""
    specs = replicates(
        digits, odd, architecture=narrow("cnn", digits.image_shape), training={"steps": 10, "batch_size": 16}
    )
    assert same(together(specs)[1], together([specs[1]] * 3)[1])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_stack_that_is_stopped_can_be_taken_up_as_one_or_apart(digits, odd, optimizer):
    specs = replicates(
        digits, odd, 2, training={"steps": 12, "batch_size": 16, "optimizer": optimizer, "learning_rate": 1e-3}
    )
    memories = [Memory(), Memory()]
    data = [data_of(spec) for spec in specs]
    run = fused.pretrain_all(specs, data, device=CPU, savers=memories, report_every_s=0)
    assert [next(run).step for _ in range(5)] == [1, 2, 3, 4, 5]
    run.close()
    assert [memory.kept[1]["step"] for memory in memories] == ["5", "5"]
    run = fused.pretrain_all(specs, data, device=CPU, savers=copy.deepcopy(memories), report_every_s=0)
    assert next(run).step == 6
    assert all(map(same, ended(run), together(specs)))
    alone = pretrain(specs[0], data[0], device=CPU, saver=memories[0], report_every_s=0)
    assert next(alone).step == 6
    assert_equal([ended(alone)], specs[:1])


def test_a_stack_takes_up_what_runs_have_left_alone(digits, odd):
    specs = replicates(digits, odd, 2, training={"steps": 12, "batch_size": 16, "learning_rate": 0.02})
    memories = [Memory(), Memory()]
    for spec, memory in zip(specs, memories, strict=True):
        ended(pretrain(replace(spec, until=5), data_of(spec), device=CPU, saver=memory))
    assert_equal(together(specs, savers=memories), specs)


def test_checkpoints_on_the_way_are_those_of_the_run(digits, odd):
    specs = replicates(digits, odd, 2, training={"steps": 12, "batch_size": 16, "learning_rate": 0.02})
    seen = {}

    def keep(key):
        return lambda network: seen.update({key: {k: v.clone() for k, v in network.state_dict().items()}})

    together(specs, checkpoints=[{4: keep((0, 4)), 8: keep((0, 8))}, {8: keep((1, 8))}])
    assert sorted(seen) == [(0, 4), (0, 8), (1, 8)]
    for (row, step), found in seen.items():
        expected = finished(replace(specs[row], until=step)).network.state_dict()
        assert all(torch.allclose(found[k], expected[k], atol=TOLERANCE) for k in expected)


def test_runs_of_a_stack_share_its_time(digits, odd):
    specs = replicates(digits, odd, 3, training={"steps": 20, "batch_size": 16})
    started = time.monotonic()
    runs = together(specs)
    took = (time.monotonic() - started) / 3
    assert len({run.seconds for run in runs}) == 1
    assert 0 < runs[0].seconds < took


def test_a_cpu_trains_each_run_alone_and_says_so_at_once(digits, odd):
    spec = specified(digits, odd, training={"steps": 3000})
    assert fused.group_size(spec, data_of(spec), 64, CPU) == 1
    assert not fused._PILOTS


def test_groups_grow_as_long_as_that_pays_and_are_of_about_one_size(digits, odd, monkeypatch):
    """On a GPU whose step takes as long for one run as for eight, and for sixteen there is no room."""
    seconds = {1: 8.0, 2: 4.0, 4: 2.0, 8: 1.0, 16: math.inf}
    monkeypatch.setattr(fused, "pilot", lambda spec, data, size, device: seconds[size])
    spec, gpu = specified(digits, odd, training={"steps": 3000}), torch.device("cuda")
    sizes = [fused.group_size(spec, [], count, gpu) for count in (1, 2, 3, 5, 8, 9, 24, 25)]
    assert sizes == [1, 2, 2, 3, 8, 5, 8, 7]
    short = specified(digits, odd, training={"steps": 100})
    assert fused.group_size(short, [], 64, gpu) == 1, "the pilot would cost more than it saves"


def test_a_pilot_measures_once_and_an_exhausted_memory_is_a_size_that_does_not_fit(digits, odd, monkeypatch):
    spec = specified(digits, odd, training={"steps": 400, "batch_size": 16})
    monkeypatch.setattr(fused, "_PILOTS", {})
    alone = fused.pilot(spec, data_of(spec), 1, CPU)
    assert 0 < fused.pilot(spec, data_of(spec), 4, CPU) < 100 * alone
    assert fused.pilot(spec, data_of(spec), 1, CPU) == alone

    hopeless = specified(digits, odd, training={"steps": 400, "learning_rate": 1e30})
    assert fused.pilot(hopeless, data_of(hopeless), 1, CPU) == math.inf

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fused, "pretrain_all", full)
    assert fused.pilot(spec, data_of(spec), 8, CPU) == math.inf

    def too_small(*_, **__):  # what a run alone makes of it
        raise OutOfMemory("a batch of 32 does not fit")

    monkeypatch.setattr(fused, "pretrain", too_small)
    larger = specified(digits, odd, training={"steps": 400, "batch_size": 32})
    assert fused.pilot(larger, data_of(larger), 1, CPU) == math.inf


def test_runs_that_a_stack_cannot_hold_have_no_shape(digits, odd):
    assert fused.shape(specified(digits, odd)) is not None
    foreign = Architecture(name="squeezenet1_1", image_shape=(1, 32, 32))
    assert fused.shape(specified(digits, odd, training={"dropout": 0.5})) is None
    assert fused.shape(specified(digits, odd, architecture=foreign)) is None


def test_runs_that_cannot_be_mapped_here_are_trained_alone_with_a_warning(digits, odd, monkeypatch, caplog):
    def fails(*arguments):
        raise RuntimeError("Batching rule not implemented")

    monkeypatch.setattr(fused, "_seconds_of_steps", fails)
    assert fused._measured(specified(digits, odd), [], 2, CPU) == math.inf
    assert "runs of mlp cannot be trained as one here (Batching rule not implemented)" in caplog.text
    with pytest.raises(RuntimeError, match="Batching rule"):
        fused._measured(specified(digits, odd), [], 1, CPU)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_on_a_gpu_a_stack_ends_where_its_runs_end_alone(digits, odd, name):
    cuda = torch.device("cuda")
    specs = replicates(
        digits,
        odd,
        architecture=narrow(name, digits.image_shape),
        training={"steps": STEPS, "batch_size": 8, "learning_rate": 0.01, "augment": ("flip", "crop")},
    )
    for run, spec in zip(together(specs, cuda), specs, strict=True):
        assert apart(run, ended(pretrain(spec, data_of(spec), device=cuda))) < TOLERANCE_ON_A_GPU
    assert same(together(specs, cuda)[1], together([specs[1]] * 3, cuda)[1])


@pytest.mark.gpu
def test_on_a_gpu_the_pilot_finds_that_small_networks_are_best_trained_as_one(digits, odd):
    spec = specified(digits, odd, training={"steps": 3000, "batch_size": 32})
    assert fused.group_size(spec, data_of(spec), 16, torch.device("cuda")) == 16
