"""The canonical sweep `clothes-digits-kana`, against the same study on plain Ray Tune and as one process per job.

All three are commands, timed from outside with their start-up, on two slots, with stores and databases in empty
folders. Their answers are compared network by network: the difference of means, in units of the half width of its 95 %
interval over the networks.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.clock import command, in_turn
from benchmarks.lines import data
from benchmarks.peers.study import MIXTURES, Study
from benchmarks.table import Figure, Line, Measure, at_least, at_most

SWEEP = "clothes-digits-kana"
PEERS = {"Ray Tune": "benchmarks.peers.ray_tune", "a process per job": "benchmarks.peers.launcher"}
QUANTITIES = ("transfer", "direct", "random_init")
Rows = Sequence[Mapping[str, Any]]


def prepare(folder: Path, *, steps: int, seeds: int, mixtures: int, train_examples: int, per_job: int) -> Measure:
    """
    Args:
        per_job: 1: one process per job is measured too; 0: only Ray Tune.
    """
    study = Study(steps=steps, seeds=seeds, mixtures=mixtures, train_examples=train_examples)
    peers = {name: module for name, module in PEERS.items() if per_job or name == "Ray Tune"}

    def peer(module: str) -> Callable[[], tuple[float, Rows]]:
        return lambda: _peer(module, study, folder)

    repeats = iter(range(10**6))

    def measure(swapped: bool) -> dict[str, float]:
        storage = folder / str(next(repeats))
        ways: dict[str, Callable[[], tuple[float, Rows]]] = {"this program": lambda: ours(study, storage)}
        done = in_turn(ways | {name: peer(module) for name, module in peers.items()}, swapped=swapped)
        seconds, rows = done["this program"]
        found = {"this program, s": seconds} | parts_of_ours(storage, seconds)
        for name in peers:
            taken, theirs = done[name]
            found |= {f"{name}, s": taken, f"times faster than {name}": taken / seconds}
            found |= parts_of_peer(name, taken, theirs)
            for quantity in QUANTITIES:
                difference, in_half_widths = compared(rows, theirs, quantity)
                found[f"{quantity}, minus {name}, points"] = 100 * difference
                found[f"{quantity}, minus {name}, half widths"] = in_half_widths
        return found

    return measure


def ours(study: Study, storage: Path) -> tuple[float, Rows]:
    """Seconds of `bottleneck run` into an empty store, and its rows."""
    done = command([sys.executable, "-m", "orchestrator.cli", "run", SWEEP, *changes(study), "--storage", storage])
    from orchestrator.results import load

    table = load(SWEEP, storage=str(storage))
    labels = list(dict.fromkeys(table["mixture"]))  # in the order of the sweep file
    names = {"transfer": "transfer_accuracy", "direct": "direct_probe_accuracy", "random_init": "random_init_accuracy"}
    rows = [
        {"mixture": labels.index(row["mixture"]), "ordering": row["ordering"].partition(":")[0]}
        | {key: row[key] for key in ("width", "seed", "component")}
        | {name: row[column] for name, column in names.items()}
        for row in table.to_dict("records")
    ]
    return done.wall_s, rows


def changes(study: Study) -> list[str]:
    """The command line's flags for a study of this size."""
    whole, words = Study(), []
    if study.mixtures != whole.mixtures:
        words += ["--set", f"vary.mixture={json.dumps(MIXTURES[: study.mixtures])}"]
    for key, field in {
        "pretrain.steps": "steps",
        "seeds": "seeds",
        "transfer.train_examples": "train_examples",
    }.items():
        if getattr(study, field) != getattr(whole, field):
            words += ["--set", f"{key}={getattr(study, field)}"]
    return words


def _peer(module: str, study: Study, folder: Path) -> tuple[float, Rows]:
    out = folder / "peer.json"
    flags = [word for name, value in study.as_json().items() for word in (f"--{name.replace('_', '-')}", value)]
    done = command([sys.executable, "-m", module, out, *flags])
    return done.wall_s, json.loads(out.read_text())["rows"]


def parts_of_ours(storage: Path, seconds: float) -> dict[str, float]:
    """What of our time was in stages, and what came with the sweep whatever its size."""
    from orchestrator.journal import Journal
    from trainables.store import Store

    stages = [event for event in Journal(Store(str(storage)), SWEEP).events() if event["event"] == "stage"]
    work = sum(event["seconds"] for event in stages)
    return {"this program, s a stage": work / len(stages), "this program, s beside stages": seconds - work / _slots()}


def parts_of_peer(name: str, seconds: float, rows: Rows) -> dict[str, float]:
    """The same of a peer, with its trials or jobs."""
    key = ("mixture", "ordering", "width", "seed") + (("component",) if name == "a process per job" else ())
    each = {tuple(row[part] for part in key): row["seconds"] for row in rows}
    unit = "a job" if name == "a process per job" else "a trial"
    return {
        f"{name}, s {unit}": statistics.fmean(each.values()),
        f"{name}, s beside": seconds - sum(each.values()) / _slots(),
    }


def _slots() -> int:
    return len(os.sched_getaffinity(0))


def compared(ours: Rows, theirs: Rows, quantity: str) -> tuple[float, float]:
    """The mean difference of a quantity over networks, and that in units of the half width of its 95 % interval.

    Cells that share a network count once: they are averaged first. All mixtures share a baseline, and all components
    are read from one network on a mixture, or from one that is not trained.
    """
    from scipy.stats import t

    own = {"transfer": ("mixture", "ordering"), "direct": ("component",), "random_init": ()}[quantity]
    key = ("width", "seed", *own)
    means = [_means(rows, key, quantity) for rows in (ours, theirs)]
    assert set(means[0]) == set(means[1]), "the peers measure the same networks"
    differences = [means[0][cell] - means[1][cell] for cell in means[0]]
    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    half_width = float(t.ppf(0.975, len(differences) - 1)) * spread / len(differences) ** 0.5
    return mean, abs(mean) / half_width


def _means(rows: Rows, key: Sequence[str], quantity: str) -> dict[tuple[Any, ...], float]:
    cells: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        cells.setdefault(tuple(row[part] for part in key), []).append(float(row[quantity]))
    return {cell: statistics.fmean(values) for cell, values in cells.items()}


GOALS = {
    "times faster than Ray Tune": at_least(5),
    "times faster than a process per job": at_least(10),
    **{f"{quantity}, minus {peer}, half widths": at_most(1) for peer in PEERS for quantity in QUANTITIES},
}
EXPLAINING = (
    *("this program, s", "this program, s a stage", "this program, s beside stages"),
    *("Ray Tune, s", "Ray Tune, s a trial", "Ray Tune, s beside"),
    *("a process per job, s", "a process per job, s a job", "a process per job, s beside"),
    *(f"{quantity}, minus {peer}, points" for peer in PEERS for quantity in QUANTITIES),
)
LINE = Line(
    name="sweep",
    question="How long does the canonical sweep take, and are the answers those of its peers?",
    prepare=prepare,
    figures=(
        *(Figure(name=name, goal=goal) for name, goal in GOALS.items()),
        *(Figure(name=name) for name in EXPLAINING),
    ),
    full={"steps": 600, "seeds": 3, "mixtures": 3, "train_examples": 5000, "per_job": 1},
    usual={"steps": 60, "seeds": 1, "train_examples": 1000},
    quick={"steps": 5, "seeds": 1, "mixtures": 1, "train_examples": 200, "per_job": 0},
    repeats=1,
    missing=data.missing,
)
