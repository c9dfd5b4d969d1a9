"""The benchmarks: the table has every line, a verdict is right, and what is cheap runs at its smallest size."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import __main__ as benchmarks  # noqa: E402
from benchmarks import clock, gpu, table  # noqa: E402
from benchmarks.lines import LINES, sweep  # noqa: E402
from benchmarks.peers import cell, study  # noqa: E402
from benchmarks.table import Figure, Line, Measured, at_least, at_most  # noqa: E402

# The numbers to reach, and how many goals each line has.
GOALS = {
    "sweep": 8,
    "useful": 1,
    "probe": 2,
    "probe-paper": 2,
    "one-second-trials": 1,
    "no-op": 2,
    "tracking": 2,
    "results": 4,
    "plan": 2,
    "commands": 3,
    "trajectory": 1,
    "gpu-fused": 1,
    "gpu-resnet18": 1,
}
LINE = Line(
    name="sums",
    question="How fast are sums?",
    prepare=lambda folder, *, terms: lambda swapped: {"times faster": terms / 10, "s": 0.5},
    figures=(Figure(name="s"), Figure(name="times faster", goal=at_least(10))),
    full={"terms": 100},
    usual={"terms": 90},
    quick={"terms": 20},
)


def test_every_number_to_reach_has_its_line_and_its_goals():
    assert {line.name: sum(figure.goal is not None for figure in line.figures) for line in LINES} == GOALS


def test_sizes_differ_from_the_full_one_in_keys_that_it_has():
    for line in LINES:
        assert {*line.usual, *line.quick} <= set(line.full), line.name


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [(at_least(10), 10, True), (at_least(10), 9.99, False), (at_most(0.4), 0.4, True), (at_most(0.4), 0.41, False)],
)
def test_a_goal_is_a_bound_that_may_be_reached(goal, value, met):
    assert goal.met(value) is met


def test_a_row_has_the_median_the_spread_the_number_and_a_verdict():
    values = {"times faster": [12.0, 9.0, 10.0], "s": [0.5]}
    rows = Measured(line=LINE, size={"terms": 100}, values=values).rows()
    assert rows[0] == ("sums", "times faster", "at least 10", "10", "9 to 12", "3", "yes", "full")
    assert rows[1] == ("sums", "s", "", "0.5", "0.5 to 0.5", "1", "", "full")


def test_a_smaller_size_is_said_and_its_verdict_is_not_that_of_the_goal():
    [first, _] = Measured(line=LINE, size={"terms": 20}, values={"times faster": [2.0]}).rows()
    assert first[-2:] == ("no, at this size", "terms 20 of 100")


def test_what_was_not_measured_says_why_and_has_no_number():
    [first, second] = Measured(line=LINE, size={"terms": 100}, unmeasured="no CUDA device").rows()
    assert first == ("sums", "times faster", "at least 10", "unmeasured: no CUDA device", "", "", "", "")
    assert second[3] == "unmeasured: no CUDA device"
    values = {"times faster": [11.0, 12.0]}
    [half, _] = Measured(line=LINE, size={"terms": 100}, values=values, unmeasured="failed: OSError: full").rows()
    assert half[3:7] == ("11.5", "11 to 12", "2", "yes; failed: OSError: full")


@pytest.mark.parametrize(("value", "said"), [(0.0123, "0.0123"), (99.96, "100"), (123456.7, "123,457"), (0, "0")])
def test_numbers_have_three_digits_and_no_exponent(value, said):
    assert table.number(value) == said


def test_a_page_gets_a_table_of_markdown():
    page = table.as_markdown([Measured(line=LINE, size={"terms": 100}, values={"times faster": [11.0], "s": [1.0]})])
    assert page.splitlines()[0].startswith("| line | figure | goal |")
    assert {row.count("|") for row in page.splitlines()} == {len(table.HEADINGS) + 1}


def test_a_line_is_measured_as_often_as_asked_with_the_peer_first_every_other_time():
    swaps: list[bool] = []
    line = Line(
        name="swaps",
        question="Who comes first?",
        prepare=lambda folder: lambda swapped: swaps.append(swapped) or {"s": 1.0},
        figures=(Figure(name="s"),),
        full={},
        quick={},
    )
    assert benchmarks.measured(line, {}, 3).values == {"s": [1.0, 1.0, 1.0]}
    assert swaps == [False, True, False]
    assert list(clock.in_turn({"a": dict, "b": dict}, swapped=True)) == ["b", "a"]


def test_a_line_that_fails_is_said_to_have_failed(capsys):
    def broken(swapped):
        raise ValueError("no such thing")

    line = Line(name="b", question="?", prepare=lambda folder: broken, figures=LINE.figures, full={}, quick={})
    assert benchmarks.measured(line, {}, 2).unmeasured == "failed: ValueError: no such thing"
    assert "no such thing" in capsys.readouterr().err


def test_the_command_prints_the_table_and_writes_every_value(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmarks, "LINES", (LINE,))
    files = [tmp_path / "found.json", tmp_path / "found.md"]
    words = ["sums", "--set", "repeats=2", "--json", str(files[0]), "--markdown", str(files[1])]
    assert benchmarks.main(words) == 0
    assert "no, at this size" in capsys.readouterr().out
    found = json.loads(files[0].read_text())
    assert found["lines"]["sums"]["values"]["times faster"] == [9.0, 9.0]
    assert found["lines"]["sums"]["scale"] == "terms 90 of 100"
    assert found["command"] == f"python -m benchmarks {' '.join(words)}"
    assert benchmarks.main(["sums", "--full", "--set", "repeats=1"]) == 0
    assert "terms" not in capsys.readouterr().out
    assert benchmarks.main(["sums", "--set", "repeats=1", "--set", "terms=70"]) == 0
    assert "terms 70 of 100" in capsys.readouterr().out


def test_one_line_of_several_can_have_another_size(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmarks, "LINES", (LINE, replace(LINE, name="others")))
    file = tmp_path / "found.json"
    sets = ["terms=70", "others.terms=100", "sums.repeats=2", "others.repeats=3"]
    assert benchmarks.main([*[word for one in sets for word in ("--set", one)], "--json", str(file)]) == 0
    found = json.loads(file.read_text())["lines"]
    assert {name: line["scale"] for name, line in found.items()} == {"sums": "terms 70 of 100", "others": "full"}
    assert {name: len(line["values"]["times faster"]) for name, line in found.items()} == {"sums": 2, "others": 3}


@pytest.mark.parametrize(
    "words",
    [
        ["no-such-line"],
        ["plan", "--set", "terms=1"],
        ["plan", "--set", "cells=many"],
        ["plan", "--set", "sweep.steps=1"],
        ["plan", "--set", "plan.repeats=0"],
    ],
)
def test_a_misspelt_command_ends_with_2(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmarks.main(words)
    assert "found" in capsys.readouterr().err


def test_a_command_that_fails_says_how_it_ended():
    with pytest.raises(RuntimeError, match="ended with 3: gone"):
        clock.command([sys.executable, "-c", "import sys; sys.stderr.write('gone'); sys.exit(3)"])
    done = clock.command([sys.executable, "-c", "print(6 * 7)"])
    assert done.result.stdout == "42\n"
    assert done.result.peak_mb > 1


@pytest.mark.parametrize("name", ["plan", "probe"])
def test_a_cheap_line_measures_all_its_figures_at_its_smallest_size(name):
    [line] = [line for line in LINES if line.name == name]
    if why := line.missing():
        pytest.skip(why)
    measured = benchmarks.measured(line, line.size("quick", {}), 1)
    assert measured.unmeasured is None
    assert set(measured.values) == {figure.name for figure in line.figures}
    assert all(np.isfinite(values).all() for values in measured.values.values())


def test_the_script_for_a_gpu_runs_without_ray_and_mlflow(tmp_path):
    out = tmp_path / "gpu.json"
    blocked = "import sys; sys.modules.update(ray=None, mlflow=None, optuna=None); sys.path.insert(0, '.'); "
    words = ["--device", "cpu", "--tiny", "--repeats", "1", "--only", "matmul,resnet18,probe", "--json", str(out)]
    clock.command([sys.executable, "-c", f"{blocked}from benchmarks import gpu; gpu.main({words!r})"])
    found = json.loads(out.read_text())["found"]
    assert {"matmul, TFLOP/s", "resnet18, ours / bare tuned loop", "probe path of 6, s"} <= set(found)


# The peers ------------------------------------------------------------------------------------------------------------


def test_the_study_of_the_peers_is_that_of_the_canonical_sweep():
    from orchestrator.sweep import locate, plain, read

    whole = study.Study()
    asked = plain(read(locate(sweep.SWEEP)))
    assert [{**weights} for weights in study.MIXTURES] == list(asked["vary"]["mixture"])
    assert list(study.WIDTHS) == asked["vary"]["width"]
    assert whole.seeds == len(asked["seeds"])
    assert (whole.steps, cell.BATCH) == (asked["pretrain"]["steps"], asked["pretrain"]["batch_size"])
    assert asked["pretrain"]["learning_rate"] == cell.LEARNING_RATE
    assert asked["pretrain"]["weight_decay"] == cell.WEIGHT_DECAY
    assert whole.train_examples == asked["transfer"]["train_examples"]
    assert sorted(cell.L2S) == sorted(asked["transfer"]["l2"])
    assert {(c["validation_examples"], c["test_examples"]) for c in asked["components"].values()} == {
        (cell.VALIDATION, cell.TEST)
    }
    datasets = {name: dataset for name, (_, dataset) in cell.DATASETS.items()}
    assert {name: c["dataset"] for name, c in asked["components"].items()} == datasets
    assert tuple(asked["components"]) == study.COMPONENTS
    assert len(whole.cells()) == 36


@pytest.mark.parametrize("purpose", [("mnist",), ("mnist", "test")])
def test_the_peers_draw_their_splits_as_the_sweep_does(purpose):
    from trainables.draws import permutation
    from trainables.spec import derive_seed

    assert cell.positions(1000, *purpose) == permutation(derive_seed(0, "split", *purpose), 1000).tolist()


@pytest.mark.parametrize("name", study.COMPONENTS)
def test_the_examples_of_the_peers_are_ours(real_data, name):
    from trainables.components import load, prepare
    from trainables.feed import to_float
    from trainables.spec import Source

    dataset = cell.DATASETS[name][1]
    source = Source(dataset=dataset, validation_examples=cell.VALIDATION, test_examples=cell.TEST)
    ours, theirs = load(prepare(source)), cell.component(name)
    read = {"train": study.Study().train_examples, "validation": cell.VALIDATION, "test": cell.TEST}
    for split, count in read.items():
        mine, other = getattr(ours, split), getattr(theirs, split)
        assert len(mine) == len(other)
        images, labels = zip(*(other[place] for place in range(count)), strict=True)
        assert list(labels) == mine.labels[:count].tolist()
        torch.testing.assert_close(torch.stack(images), to_float(mine.images[:count], ours.value_range))


@pytest.mark.parametrize("width", study.WIDTHS)
def test_the_network_of_the_peers_is_ours(width):
    from trainables.architectures import build
    from trainables.spec import Architecture

    ours = build(Architecture(name="cnn", width=width, image_shape=(1, 28, 28)), 0, 0).features
    theirs = cell.features_of(width)
    assert [(name, value.shape) for name, value in theirs.state_dict().items()] == [
        (name, value.shape) for name, value in ours.state_dict().items()
    ]
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(theirs(x), ours(x))
    torch.testing.assert_close(theirs.eval()(x), ours.eval()(x))


def test_the_schedule_of_the_peers_is_ours():
    from trainables.pretrain import learning_rate
    from trainables.spec import Training

    training = Training(steps=600, learning_rate=1.0, schedule="one_cycle")
    for step in range(600):
        assert cell.one_cycle(step, 600) == pytest.approx(learning_rate(training, step), abs=1e-12)


@pytest.mark.parametrize("width", study.WIDTHS)
def test_a_run_of_the_peers_is_ours_if_both_draw_the_same(real_data, monkeypatch, width):
    from trainables.architectures import build
    from trainables.components import load, prepare
    from trainables.feed import Feed
    from trainables.mixture import mixture_of
    from trainables.ordering import index_stream
    from trainables.pretrain import pretrain
    from trainables.spec import Architecture, Ordering, PretrainSpec, Source, Training

    steps = 20
    parts = {name: prepare(Source(dataset=cell.DATASETS[name][1])) for name in study.COMPONENTS}
    data = [load(component) for component in parts.values()]
    mixture = mixture_of(
        study.MIXTURES[1], parts, num_examples=steps * cell.BATCH, train_examples=None, label_space="joint"
    )
    spec = PretrainSpec(
        mixture=mixture,
        architecture=Architecture(name="cnn", width=width, image_shape=(1, 28, 28)),
        training=Training(
            steps=steps,
            batch_size=cell.BATCH,
            learning_rate=cell.LEARNING_RATE,
            schedule="one_cycle",
            weight_decay=cell.WEIGHT_DECAY,
        ),
        seed=0,
    )
    cpu, ours = torch.device("cpu"), {}
    monkeypatch.setattr("trainables.pretrain.layout_of", lambda *_: torch.contiguous_format)  # theirs rounds so
    ended = {steps: lambda network: ours.update(copy.deepcopy(network.features).state_dict())}
    assert not list(pretrain(spec, data, device=cpu, checkpoints=ended, report_every_s=1e9))

    start = build(spec.architecture, mixture.num_classes, spec.seed)
    shown = Feed(index_stream(mixture, Ordering(), spec.seed), mixture, data, cell.BATCH, cpu)
    monkeypatch.setattr(cell, "untrained", lambda *_: start.features)
    monkeypatch.setattr(cell.nn, "Linear", lambda *_: start.head)
    monkeypatch.setattr(cell, "batches", lambda *_: (batch[:2] for batch in shown.batches(0)))
    theirs = cell.pretrained(study.MIXTURES[1], "shuffled", width, 0, steps).state_dict()
    assert [*theirs] == [*ours]
    for name, value in theirs.items():
        torch.testing.assert_close(value, ours[name])


def test_the_probe_of_the_peers_finds_what_ours_finds():
    import torch

    from trainables.probe import linear_probe

    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 6)).astype(np.float32)
    y = (x @ rng.normal(size=(6, 3)) + rng.normal(size=(600, 3))).argmax(1)
    parts = [(x[i : i + 200], y[i : i + 200]) for i in range(0, 600, 200)]
    ours = linear_probe(*[tuple(map(torch.from_numpy, part)) for part in parts], 3, cell.L2S)
    assert cell.fit_probe(*parts, cell.L2S) == pytest.approx(ours.test_accuracy, abs=0.011)


def test_shares_of_a_run_add_up():
    assert cell.shares([0.8, 0.1, 0.1], 7680) == [6144, 768, 768]
    assert sum(cell.shares([1, 1, 1], 128)) == 128


def test_a_cell_of_the_peers_measures_every_component(real_data):
    small = study.Study(steps=2, seeds=1, mixtures=1, train_examples=100)
    [row] = cell.measure(small.cells()[0], small, ["digits"])
    assert set(row) == {"mixture", "ordering", "width", "seed", "component", "transfer", "direct", "random_init"}
    assert all(0 < row[what] < 1 for what in sweep.QUANTITIES)


def rows(shift, count=40):
    rng = np.random.default_rng(1)
    return [
        {"mixture": n, "ordering": "shuffled", "width": 1.0, "seed": 0, "component": "digits"}
        | dict.fromkeys(sweep.QUANTITIES, shift + 0.01 * noise)
        for n, noise in enumerate(rng.normal(size=count))
    ]


def test_two_studies_agree_if_their_difference_is_within_its_interval():
    ours = rows(0.5)
    same = [row | {"transfer": row["transfer"] + 0.01 * (-1) ** row["mixture"]} for row in ours]
    other = [row | {"transfer": row["transfer"] + 0.02 + 0.01 * (-1) ** row["mixture"]} for row in ours]
    assert sweep.compared(ours, same, "transfer")[1] < 1
    difference, half_widths = sweep.compared(ours, other, "transfer")
    assert difference == pytest.approx(-0.02)
    assert half_widths > 1


def test_cells_that_share_a_network_count_once():
    ours = [row | {"component": name} for row in rows(0.5, count=4) for name in ("clothes", "digits", "kana")]
    theirs = [row | {"transfer": row["transfer"] - 0.01 * (1 + row["mixture"] % 2)} for row in ours]
    # Four networks, with differences of 0.01, 0.02, 0.01 and 0.02: a mean of 0.015, a spread of 0.01 / sqrt(3).
    difference, half_widths = sweep.compared(ours, theirs, "transfer")
    assert difference == pytest.approx(0.015)
    assert half_widths == pytest.approx(0.015 / (3.182446 * 0.01 / 3**0.5 / 2), rel=1e-6)


def test_a_size_of_the_study_becomes_flags_of_the_command():
    assert sweep.changes(study.Study()) == []
    assert sweep.changes(study.Study(steps=60, seeds=1)) == ["--set", "pretrain.steps=60", "--set", "seeds=1"]
    assert sweep.changes(study.Study(mixtures=1)) == ["--set", 'vary.mixture=[{"clothes": 1, "digits": 1, "kana": 1}]']


@pytest.mark.parametrize("script", ["tracking", "search"])
def test_a_script_that_a_page_names_still_starts(script):
    command = [sys.executable, f"benchmarks/{script}.py", "--help"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


def test_images_of_noise_are_a_component_that_can_be_trained_on(tmp_path):
    data = gpu.images_of_noise(tmp_path, 16)
    assert data.train.images.shape == (16, *gpu.SHAPE)
    assert set(data.train.labels.tolist()) <= set(range(gpu.CLASSES))
