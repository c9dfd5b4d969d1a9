"""Why is a component served worse than by direct training: is a feature unused, entangled, recoverable or lost?

A ladder reads the same pretrained network in ever more powerful ways, from its head as it was trained to a direct
baseline. The first rung that is as good as the baseline names the failure:

    head                                 none: nothing is wrong
    head_repair, linear_probe            unused: the features are there, the head does not use them
    mlp_probe, ntk_probe                 entangled: they are there, but no linear read-out finds them
    few-shot or full fine-tuning         recoverable: the weights have to move
    linear_probe of several networks     lost by this run: other runs of the same recipe have it
    direct                               lost by the recipe: only another training has it

How well a rung does is measured by others; here it is compared and named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import pandas as pd

from orchestrator.analysis.gaps import Estimate, estimate, interval, level, listed, points
from orchestrator.analysis.measures import BySeed, Key, by_seed, invalid_by, keys, maybe, nested, paired, usable, varied
from trainables.representation import parse

Failure: TypeAlias = Literal[
    "none", "unused", "entangled", "recoverable", "lost by this run", "lost by the recipe", "cannot tell"
]
Outcome: TypeAlias = Literal["reaches", "falls short", "undecided", "missing", "not applicable"]

MARGIN = 0.01  # a point of accuracy: a smaller loss is no failure
FAILURES: Mapping[str, tuple[str, ...]] = {  # by failure, its rungs from the weakest to the most powerful
    "none": ("head",),
    "unused": ("head_repair", "linear_probe"),
    "entangled": ("mlp_probe", "ntk_probe"),
    "recoverable": ("few-shot fine-tuning", "full fine-tuning"),
    "lost by this run": ("probe of several networks",),
    "lost by the recipe": ("direct",),
}
RUNGS = tuple(rung for rungs in FAILURES.values() for rung in rungs)
FINE_TUNING = ("finetune", "lp_ft")
SEVERAL = ("cat", "time_cat")  # networks of one recipe side by side; the second, of shorter runs, for want of the first


@dataclass(frozen=True)
class Rung:
    """One way to read the network, and how much of direct training it misses."""

    name: str  # of RUNGS
    source: str  # protocol, shots and representation that were read; or why there is nothing
    accuracy: Estimate | None
    shortfall: Estimate | None  # direct minus this rung, paired by seed; positive: the rung is worse
    outcome: Outcome

    @property
    def n(self) -> int:
        """Seeds that have both this rung and the reference."""
        return self.shortfall.n if self.shortfall else 0


@dataclass(frozen=True)
class Ladder:
    """Every rung of one component in one design, and the failure that they name."""

    component: str
    design: Mapping[str, Any]  # of the columns of a design, those that vary in the table
    weight: float | None  # the component's share of the mixture
    rungs: tuple[Rung, ...]  # in the order of RUNGS
    failure: Failure
    reason: str  # why this failure, or why it cannot be told
    margin: float
    invalid: int  # rows that are marked invalid, none of which is used

    @property
    def missing(self) -> tuple[str, ...]:
        """The rungs that were not measured."""
        return tuple(rung.name for rung in self.rungs if rung.outcome == "missing")

    @property
    def sentence(self) -> str:
        """For example: `hard` at weight 0.02: unused, because linear_probe is within 1 point of direct training ..."""
        where = [] if self.weight is None else [f"at weight {level('weight', self.weight)}"]
        where += [f"{name} {level(name, value)}" for name, value in self.design.items() if name != "mixture"]
        place = f" {', '.join(where)}" if where else ""
        return f"`{self.component}`{place}: {self.failure}, because {self.reason}."


def ladder(table: pd.DataFrame, *, margin: float = MARGIN) -> list[Ladder]:
    """The ladder of every component in every design whose networks are read one at a time.

    A rung *reaches* direct training if a loss of the margin or more is ruled out: the upper end of the 95 % interval
    of direct minus rung, paired by seed, lies below the margin. It *falls short* if the lower end lies above the
    margin. Anything else is *undecided*. The other reading, that a rung reaches as soon as its interval contains 0,
    would let every rung of a noisy sweep of three seeds reach, and so call a loss unused because it was measured
    badly: absence of evidence would stand for evidence. This one says `cannot tell` instead. It asks for
    seeds: with a standard deviation of half a point over seeds the interval is +-1.2 points with 3, +-0.6 with 5
    and +-0.4 with 10, so that 3 seeds name large losses only. Each bound fails in 2.5 %.

    The failure is that of the first rung that reaches, if every failure before it is ruled out: one of its rungs was
    measured, and each that was falls short. Otherwise it is `cannot tell`, with the rungs that are missing or
    undecided. A component that the mixture never showed has no head, unless all label alike, and is not failed by
    one: the first failure that it can have is `entangled`.

    The reference is the linear probe, at all shots, of the direct baseline. Where several settings of a rung were
    measured (fine-tuning with and without dropout, several kinds of concatenation) the one that validation prefers is
    read; of several shots the fewest.

    Args:
        table: a results table.
        margin: the loss that would be a failure, as a fraction of accuracy.

    Raises:
        ValueError: the margin is not positive.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"margin is {margin:g}; it is the smallest loss that counts as a failure, so above 0")
    design = [name for name in varied(table) if name != "representation"]
    group = [*design, "component", "weight"]
    read = usable(table)
    by = [*group, "representation", "protocol", "shots"]
    accuracy, direct, head, validation = (
        by_seed(read, by, name)
        for name in ("transfer_accuracy", "direct_probe_accuracy", "head_accuracy", "validation_accuracy")
    )
    readings: dict[Key, list[_Reading]] = {}
    for key, of_reading in nested(accuracy, inner=3).items():
        for (representation, protocol, shots), seeds in of_reading.items():
            full = (*key, representation, protocol, shots)
            others = (direct.get(full, {}), head.get(full, {}), validation.get(full, {}))
            readings.setdefault(key, []).append(_Reading(representation, protocol, shots, seeds, *others))
    marked = invalid_by(table, group)
    return [
        _ladder(
            str(component), dict(zip(design, place, strict=True)), weight, readings.get(key, []), margin, marked[key]
        )
        for key in dict.fromkeys(keys(table[table["representation"] == "single"], group))
        for *place, component, weight in [key]
    ]


def rows(found: Ladder) -> list[tuple[str, ...]]:
    """A ladder as text for a terminal or a report, the header first: accuracies in %, differences in points."""
    header = ("rung", "read from", "accuracy, %", "direct - rung, points", "95 % interval", "n", "outcome")
    lines = []
    for rung in found.rungs:
        lost = rung.shortfall
        lines.append(
            (
                rung.name,
                rung.source,
                points(rung.accuracy.mean if rung.accuracy else None),
                points(lost.mean if lost else None),
                interval(lost.low, lost.high, lost.n) if lost and rung.name != "direct" else "-",
                str(rung.n) if rung.n else "-",
                rung.outcome,
            )
        )
    return [header, *lines]


@dataclass(frozen=True)
class _Reading:
    """One representation read by one protocol with some shots: a number per seed."""

    representation: str
    protocol: str
    shots: int | None
    accuracy: BySeed
    direct: BySeed
    head: BySeed
    validation: BySeed

    @property
    def kind(self) -> str:
        """The protocol without its settings."""
        return self.protocol.partition(",")[0]

    @property
    def networks(self) -> int:
        return parse(self.representation)[1]

    @property
    def preference(self) -> float:
        """Mean validation accuracy; what has none comes last."""
        found = maybe(self.validation.values())
        return found.mean if found else -math.inf

    @property
    def label(self) -> str:
        shots = "" if self.shots is None else f", {self.shots} shots"
        return f"{self.protocol}{shots} of {self.representation}"


def _ladder(
    component: str,
    design: Mapping[str, Any],
    weight: float | None,
    readings: Sequence[_Reading],
    margin: float,
    invalid: int,
) -> Ladder:
    single = [reading for reading in readings if reading.representation == "single"]
    probe = next((r for r in single if r.protocol == "linear_probe" and r.shots is None), None)
    reference = probe.direct if probe else {}
    climbed = tuple(_rung(name, readings, single, probe, reference, weight, margin) for name in RUNGS)
    failure, reason = _named(climbed, reference, margin)
    return Ladder(component, design, weight, climbed, failure, reason, margin, invalid)


def _rung(
    name: str,
    readings: Sequence[_Reading],
    single: Sequence[_Reading],
    probe: _Reading | None,
    reference: BySeed,
    weight: float | None,
    margin: float,
) -> Rung:
    if name == "head" and weight == 0 and not (probe and probe.head):
        return Rung(name, "the mixture never showed the component", None, None, "not applicable")
    match name:
        case "direct":
            return _measured(name, "linear_probe of direct features", reference, reference, margin)
        case "head":
            return _measured(name, "the head as trained", probe.head if probe else {}, reference, margin)
        case "few-shot fine-tuning":
            few = [r for r in single if r.kind in FINE_TUNING and r.shots is not None]
            fewest = min((r.shots for r in few if r.shots is not None), default=None)
            chosen = _preferred([r for r in few if r.shots == fewest])
        case "full fine-tuning":
            chosen = _preferred([r for r in single if r.kind in FINE_TUNING and r.shots is None])
        case "probe of several networks":
            probes = [r for r in readings if r.protocol == "linear_probe" and r.shots is None]
            kinds = ([r for r in probes if r.representation.partition(":")[0] == kind] for kind in SEVERAL)
            chosen = _preferred(next(filter(None, kinds), []))
        case _:
            chosen = _preferred([r for r in single if r.kind == name and r.shots is None])
    return _measured(name, chosen.label if chosen else "", chosen.accuracy if chosen else {}, reference, margin)


def _preferred(readings: Sequence[_Reading]) -> _Reading | None:
    """The one that validation prefers, the first of equals. The test split has no say in it."""
    return max(readings, key=lambda reading: reading.preference, default=None)


def _measured(name: str, source: str, accuracy: BySeed, reference: BySeed, margin: float) -> Rung:
    if not accuracy:
        return Rung(name, "not measured", None, None, "missing")
    lost = paired(reference, accuracy)
    if not lost:
        return Rung(name, source, estimate(accuracy.values()), None, "undecided")
    kept = estimate(accuracy[seed] for seed in lost)
    shortfall = estimate(lost.values())
    return Rung(name, source, kept, shortfall, "reaches" if name == "direct" else _outcome(shortfall, margin))


def _outcome(shortfall: Estimate, margin: float) -> Outcome:
    if shortfall.low is None or shortfall.high is None:
        return "undecided"
    if shortfall.high < margin:
        return "reaches"
    return "falls short" if shortfall.low > margin else "undecided"


def _named(climbed: Sequence[Rung], reference: BySeed, margin: float) -> tuple[Failure, str]:
    """The failure and the reason for it."""
    if not reference:
        return "cannot tell", "there is no valid linear probe of a direct baseline at all shots to compare with"
    if len(reference) == 1:
        return "cannot tell", "one seed says nothing about other seeds"
    rung_of = {rung.name: rung for rung in climbed}
    unseen = rung_of["head"].outcome == "not applicable"
    open_before: list[str] = []
    for failure, names in FAILURES.items():
        rungs = [rung_of[name] for name in names]
        first = next((rung for rung in rungs if rung.outcome == "reaches"), None)
        if first is not None:
            name = "none" if unseen and failure == "unused" else failure
            if not open_before:
                return name, _because(first, climbed, margin)  # type: ignore[return-value]
            best = "no rung below" if first.name == "direct" else first.name
            return "cannot tell", f"{best} is within {_size(margin)} of direct training, but {listed(open_before)}"
        undecided = [rung.name for rung in rungs if rung.outcome == "undecided"]
        if undecided:
            few = min(rung_of[name].n for name in undecided)
            verb = "is" if len(undecided) == 1 else "are"
            open_before.append(f"{listed(undecided)} {verb} undecided at {few} seeds (`{failure}`)")
        elif all(rung.outcome == "missing" for rung in rungs):
            open_before.append(f"{listed(list(names))} not measured (`{failure}`)")
    raise AssertionError("direct training is as good as itself")


def _because(first: Rung, climbed: Sequence[Rung], margin: float) -> str:
    below = [rung for rung in climbed[: RUNGS.index(first.name)] if rung.outcome == "falls short"]
    size = _size(margin)
    if first.name == "direct":
        nearest = min((rung for rung in below if rung.shortfall), key=lambda r: r.shortfall.mean)  # type: ignore[union-attr]
        return f"every rung misses more than {size} of direct training, the best is {nearest.name} ({_amount(nearest)})"
    reached = f"{first.name} is within {size} of direct training ({_amount(first)})"
    return f"{reached}, {below[-1].name} is not ({_amount(below[-1])})" if below else reached


def _size(margin: float) -> str:
    return f"{100 * margin:g} {'point' if margin == 0.01 else 'points'}"


def _amount(rung: Rung) -> str:
    """What a rung misses, for example `0.3 points [0.1, 0.5], n = 5`."""
    lost = rung.shortfall
    assert lost is not None
    return f"{points(lost.mean)} points {interval(lost.low, lost.high, lost.n)}, n = {lost.n}"
