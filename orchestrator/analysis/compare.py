"""What differs between two sweeps? What their files say, which cells they have, and in common cells the numbers.

A cell is what a sweep measures over its seeds: a point of the design, a component, a protocol and its shots. Cells of
two sweeps are paired by what they say of themselves, never by digest, so that what a change of the code, of the data
or of the training did to a cell can be seen. Within a pair, seeds are paired.

Differences are the second sweep minus the first. Accuracies and gaps are fractions here, points where people read
them. Reading two stores is the business of the caller.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from orchestrator.analysis import statistics
from orchestrator.analysis.gaps import AXES, REASONS, Estimate, estimate, interval, level, listed, points, reasons
from orchestrator.analysis.measures import BySeed, Key, by_seed, keys, paired, usable
from orchestrator.analysis.summary import LARGE_GRID, Correct, Row
from orchestrator.model import show

Quantity: TypeAlias = Literal["gap", "transfer_accuracy"]
Verdict: TypeAlias = Literal["equal", "differs", "cannot tell"]
Outcome: TypeAlias = Literal["equal", "differs", "cannot tell", "unpaired"]
Correction: TypeAlias = Literal["", "Holm", "Benjamini and Hochberg"]
Cell: TypeAlias = Mapping[str, Any]
Floats: TypeAlias = npt.NDArray[np.float64]

QUANTITIES: tuple[Quantity, ...] = ("gap", "transfer_accuracy")
OUTCOMES: Mapping[Outcome, str] = {  # and how people say them of several cells
    "equal": "are equal",
    "differs": "differ",
    "cannot tell": "cannot be told apart",
    "unpaired": "have no seed that was measured in both",
}
LEVEL = 0.05  # of adjusted p-values
ROUNDING = 1e-12  # of accuracies, far below one answer
MOST_VALUE = 60  # characters of a value of a sweep file that are shown
_RECORD = ("seed", "status", "invalid", *QUANTITIES)  # what two equal cells have in common


@dataclass(frozen=True)
class Arm:
    """One of the two sweeps."""

    name: str
    table: pd.DataFrame  # its results table
    spec: Mapping[str, Any] | None = None  # `sweep.plain` of its file; None: not known
    correct: Correct | None = None  # of a row, whether direct training and transfer were right about each test example
    contents: Mapping[str, str] = field(default_factory=dict)  # by component, a digest of its examples


@dataclass(frozen=True)
class Change:
    """A key of the sweep file that the two do not share."""

    kind: Literal["added", "removed", "changed"]
    path: str  # such as pretrain.steps; of an entry of a list the path of the list
    first: Any  # the plain value; None where it was added
    second: Any  # None where it was removed


@dataclass(frozen=True)
class Difference:
    """The second sweep minus the first in one quantity of a cell, over the seeds that both have measured."""

    first: float  # means over these seeds
    second: float
    mean: float
    low: float | None  # 95 % interval; None: one seed says nothing about other seeds
    high: float | None
    n: int  # number of seeds
    over: Literal["seeds", "seeds and test examples"]  # what the interval speaks of: other seeds, or other examples too
    p: float | None  # two-sided; None: one seed, or nothing differs
    adjusted_p: float | None  # over all cells that are not equal
    correction: Correction  # by which
    same: bool  # the very same numbers in every seed

    @property
    def verdict(self) -> Verdict:
        """Whether the adjusted p-value is below 5 %, if the numbers are not the same anyway."""
        if self.same:
            return "equal"
        return "differs" if self.adjusted_p is not None and self.adjusted_p <= LEVEL else "cannot tell"


@dataclass(frozen=True)
class Pair:
    """A cell that both sweeps have."""

    cell: Cell  # component, the axes by which cells are paired, protocol, shots
    weights: tuple[float | None, float | None]  # the component's share in either mixture
    gap: Difference | None  # None: no seed has it in both
    transfer_accuracy: Difference | None
    left_out: tuple[str, str]  # of each sweep, the rows that are in no difference, and why: "2 failed, 1 seed unpaired"
    same: bool  # every row of the one is in the other, with the same status and the very same numbers

    @property
    def outcome(self) -> Outcome:
        """The strongest of what the quantities say; `unpaired` where no seed was measured in both."""
        found = {difference.verdict for difference in (self.gap, self.transfer_accuracy) if difference}
        return next((one for one in ("differs", "cannot tell", "equal") if one in found), "unpaired")


@dataclass(frozen=True)
class Comparison:
    """All that differs between two sweeps."""

    first: str
    second: str
    changes: tuple[Change, ...] | None  # of the sweep files, their names left out; None: not known
    throughout: Mapping[str, tuple[Any, Any]]  # axes with one value in either sweep, and not the same: paired across
    pairs: tuple[Pair, ...]
    only_first: tuple[Cell, ...]  # with their weight
    only_second: tuple[Cell, ...]

    @property
    def outcomes(self) -> Mapping[Outcome, int]:
        """How many pairs have each outcome."""
        return Counter(pair.outcome for pair in self.pairs)

    @property
    def same_results(self) -> bool:
        """Whether either table has what the other has, to the last digit, and no axis is another."""
        alone = self.only_first or self.only_second or self.throughout
        return not alone and all(pair.same for pair in self.pairs)

    @property
    def equal(self) -> bool:
        """Whether nothing differs at all."""
        return self.same_results and self.changes == ()


def compare(first: Arm, second: Arm) -> Comparison:
    """What differs between two sweeps.

    Cells are the same if component, protocol, shots and all axes of the design are, except axes that have a single
    value in either sweep, and not the same one: those are no cells of their own but what was changed from one sweep to
    the other, as a key outside of `vary` is. They are named in `throughout`.

    A cell differs if the p-value of its paired differences is at most LEVEL, adjusted over all cells by Holm or, where
    they are more than LARGE_GRID, by Benjamini and Hochberg. The p-value is that of the interval, by t of n - 1 degrees
    of freedom. The interval speaks of other test examples too where both arms know which answers were right and were
    tested on the same examples. Cells that have the same numbers in every seed are equal, and are not tested.

    Returns:
        Pairs and cells ordered by component, weight and design, whatever the order of the rows. Swapping the arms
        swaps the sides, and the sign of every difference.
    """
    axes, throughout = _identity(first.table, second.table)
    by = ("component", *axes, "protocol", "shots")
    sides = _Side(first, by), _Side(second, by)
    found = [_differences(*sides, quantity) for quantity in QUANTITIES]
    shared = [key for key in sides[0].rows if key in sides[1].rows]
    pairs = [_pair(*sides, key, *(differences.get(key) for differences in found)) for key in shared]
    changes = None
    if first.spec is not None and second.spec is not None:
        changes = tuple(change for change in spec_changes(first.spec, second.spec) if change.path != "name")
    return Comparison(
        first=first.name,
        second=second.name,
        changes=changes,
        throughout=throughout,
        pairs=tuple(sorted(pairs, key=lambda pair: _place(pair.cell, *pair.weights))),
        only_first=sides[0].alone(sides[1]),
        only_second=sides[1].alone(sides[0]),
    )


def _identity(first: pd.DataFrame, second: pd.DataFrame) -> tuple[list[str], dict[str, tuple[Any, Any]]]:
    """The axes by which cells are told apart, and those that have one value here and another one there."""
    values = {axis: tuple({key[0] for key in keys(table, [axis])} for table in (first, second)) for axis in AXES}
    throughout = {
        axis: (*here, *there)
        for axis, (here, there) in values.items()
        if len(here) == len(there) == 1 and here != there
    }
    return [axis for axis in AXES if axis not in throughout], throughout


class _Side:
    """The rows of one arm by cell, and what its seeds measured."""

    def __init__(self, arm: Arm, by: Sequence[str]) -> None:
        self.arm, self.by = arm, by
        columns = list(dict.fromkeys((*by, "sweep", "trial", "weight", "direct_digest", *_RECORD)))
        table = arm.table[columns]  # selecting rows of all columns takes longer than everything else
        self.rows: dict[Key, list[Row]] = defaultdict(list)
        for key, values, reason in zip(keys(table, by), keys(table, columns), reasons(table), strict=True):
            self.rows[key].append({**dict(zip(columns, values, strict=True)), "reason": reason})
        self.values = {quantity: by_seed(usable(table), by, quantity) for quantity in QUANTITIES}

    def weight(self, key: Key) -> float | None:
        """The component's share in the mixture, which is the same in all rows of a cell."""
        share: float | None = self.rows[key][0]["weight"]
        return share

    def seeds(self, key: Key) -> set[int]:
        """Those that were measured."""
        return set(self.values["transfer_accuracy"].get(key, ()))

    def record(self, key: Key) -> Counter[Key]:
        """What two cells have in common if they are the same."""
        return Counter(tuple(row[name] for name in _RECORD) for row in self.rows[key])

    def left_out(self, key: Key, other: set[int]) -> str:
        """Why rows of a cell are in no difference: they have no gap, or the other side has nothing of their seed."""
        counts = Counter(row["reason"] for row in self.rows[key])
        found = [f"{counts[name]} {spoken}" for name, spoken in REASONS.items() if name in counts]
        unpaired = len(self.seeds(key) - other)
        return ", ".join([*found, *([f"{unpaired} unpaired"] if unpaired else [])])

    def alone(self, other: _Side) -> tuple[Cell, ...]:
        """The cells that the other side lacks."""
        found = [_cell(self.by, key) | {"weight": self.weight(key)} for key in self.rows if key not in other.rows]
        return tuple(sorted(found, key=lambda cell: _place(cell, cell["weight"])))

    def answers(self, key: Key, seeds: Sequence[int], quantity: Quantity) -> Floats | None:
        """(S, N) the quantity as every test example has it in every seed; None where that is not known."""
        rows = {row["seed"]: row for row in self.rows[key]}
        known = [rows[seed] for seed in seeds if rows[seed]["reason"] == ""]  # the answers are those of both networks
        if self.arm.correct is None or len(known) < len(seeds) or len(rows) < len(self.rows[key]):
            return None
        found = [self.arm.correct(row) for row in known]
        lengths = {len(arm) for arms in found for arm in arms or ((),)}
        if len(lengths) != 1 or 0 in lengths:
            return None
        arms = np.array(found, dtype=float)  # (S, 2, N): direct, transfer
        return arms[:, 1] if quantity == "transfer_accuracy" else arms[:, 0] - arms[:, 1]


def _differences(first: _Side, second: _Side, quantity: Quantity) -> dict[Key, Difference]:
    """Of every cell with a seed that both have measured, p-values adjusted over all of them."""
    found = {}
    for key, here in first.values[quantity].items():
        there = second.values[quantity].get(key, {})
        if here.keys() & there.keys():
            found[key] = _difference(first, second, key, quantity, here, there)
    tested = {key: one.p for key, one in found.items() if one.p is not None}
    if tested:
        few = len(tested) <= LARGE_GRID
        name: Correction = "Holm" if few else "Benjamini and Hochberg"
        adjusted = (statistics.holm if few else statistics.benjamini_hochberg)(list(tested.values()))
        found |= {
            key: replace(found[key], adjusted_p=float(p), correction=name)
            for key, p in zip(tested, adjusted, strict=True)
        }
    return found


def _difference(first: _Side, second: _Side, key: Key, quantity: Quantity, here: BySeed, there: BySeed) -> Difference:
    both = paired(there, here)
    seeds, n = list(both), len(both)
    over = estimate(both.values())
    low, high = over.low, over.high
    same = not any(both.values())
    examples = None if same or n == 1 else _over_examples(first, second, key, seeds, quantity)
    if examples:
        low, high = examples.low, examples.high
    return Difference(
        first=math.fsum(here[seed] for seed in seeds) / n,
        second=math.fsum(there[seed] for seed in seeds) / n,
        mean=over.mean,
        low=low,
        high=high,
        n=n,
        over="seeds and test examples" if examples else "seeds",
        p=None if same or low is None or high is None else _p_value(over, low, high),
        adjusted_p=None,
        correction="",
        same=same,
    )


def _over_examples(
    first: _Side, second: _Side, key: Key, seeds: Sequence[int], quantity: Quantity
) -> statistics.Interval | None:
    """The interval for other seeds and other test examples; None unless both were tested on the same ones."""
    component = key[0]
    contents = [side.arm.contents.get(component) for side in (first, second)]
    if contents[0] is None or contents[0] != contents[1]:
        return None
    here, there = (side.answers(key, seeds, quantity) for side in (first, second))
    if here is None or there is None or here.shape != there.shape or here.shape[1] < 2:
        return None
    return statistics.crossed_interval(there - here)


def _p_value(found: Estimate, low: float, high: float) -> float:
    """Two-sided, from a 95 % interval of more than one seed, which may be wider than that over seeds alone.

    Seeds that agree have no spread to hold the mean against; accuracies are counts, so that two or three do so by
    chance. Then it is what the sign-flip test says of n that agree.
    """
    if high - low < ROUNDING:
        return statistics.smallest_p(found.n, "two-sided")
    return statistics.t_test(Estimate(found.mean, low, high, found.n))


def _pair(first: _Side, second: _Side, key: Key, gap: Difference | None, transfer: Difference | None) -> Pair:
    return Pair(
        cell=_cell(first.by, key),
        weights=(first.weight(key), second.weight(key)),
        gap=gap,
        transfer_accuracy=transfer,
        left_out=(first.left_out(key, second.seeds(key)), second.left_out(key, first.seeds(key))),
        same=first.record(key) == second.record(key),
    )


def _cell(by: Sequence[str], key: Key) -> dict[str, Any]:
    return dict(zip(by, key, strict=True))


def _place(cell: Cell, *weights: float | None) -> tuple[Any, ...]:
    """By component, weight, design; the same whichever arm is first."""
    ranked = sorted(map(_rank, weights))
    return (cell["component"], *ranked, *(_rank(value) for value in cell.values()))


def _rank(value: Any) -> tuple[bool, Any]:
    """Absent values come last."""
    return value is None, "" if value is None else value


# What the sweep files say


def spec_changes(first: Mapping[str, Any], second: Mapping[str, Any], path: str = "") -> list[Change]:
    """What two plain values (`sweep.plain`) do not share, key by key in the order of the first.

    A list of scalars is one value. Of other lists, such as mixtures, the entries are added or removed; if all stay and
    only their order is another, the list has changed.
    """
    found = []
    for key in dict.fromkeys((*first, *second)):
        here = f"{path}.{key}" if path else str(key)
        if key not in second:
            found.append(Change("removed", here, first[key], None))
        elif key not in first:
            found.append(Change("added", here, None, second[key]))
        elif first[key] != second[key]:
            found += _changed(here, first[key], second[key])
    return found


def _changed(path: str, first: Any, second: Any) -> list[Change]:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return spec_changes(first, second, path)
    if isinstance(first, list) and isinstance(second, list) and _nested([*first, *second]):
        removed = [Change("removed", path, entry, None) for entry in first if entry not in second]
        added = [Change("added", path, None, entry) for entry in second if entry not in first]
        if removed or added:
            return [*removed, *added]
    return [Change("changed", path, first, second)]


def _nested(entries: list[Any]) -> bool:
    return any(isinstance(entry, (Mapping, list)) for entry in entries)


# As people read it


def sentences(found: Comparison) -> list[str]:
    """What the comparison comes to, with the numbers of cells."""
    if found.equal:
        return [f"Equal: the sweep files say the same, and all {len(found.pairs)} cells have the same numbers."]
    said = []
    if found.changes == ():
        said.append("The sweep files say the same.")
    if not found.pairs:
        return [*said, "No cell is in both."]
    if found.throughout:
        changed = [
            f"{axis.replace('_', ' ')} is {level(axis, here)} in A and {level(axis, there)} in B"
            for axis, (here, there) in found.throughout.items()
        ]
        said.append(f"Throughout, {listed(changed)}; cells are paired across that.")
    counts = [f"{found.outcomes[one]} {spoken}" for one, spoken in OUTCOMES.items() if one in found.outcomes]
    said.append(f"Of {len(found.pairs)} cells in both, {listed(counts)}.")
    return said


def change_rows(changes: Sequence[Change]) -> list[tuple[str, ...]]:
    """Changes as text for a terminal, the header first."""
    rows = [
        (
            change.kind,
            change.path,
            "" if change.kind == "added" else show(_without_defaults(change.first), MOST_VALUE),
            "" if change.kind == "removed" else show(_without_defaults(change.second), MOST_VALUE),
        )
        for change in changes
    ]
    return [("", "key", "A", "B"), *rows]


def rows(pairs: Sequence[Pair]) -> list[tuple[str, ...]]:
    """Pairs as text for a terminal, in points, the header first; of what makes a cell, what varies among them."""
    named = _telling([pair.cell for pair in pairs])
    each = ("gap", "transfer")
    measured = [name for of in each for name in (f"{of} A", f"{of} B", f"{of} B - A", "adjusted p", "n")]
    lacking = ("left out of A", "left out of B") if any(any(pair.left_out) for pair in pairs) else ()
    header = (*named, "weight", *measured, "outcome", *lacking)
    return [_spoken(header), *(_row(pair, named)[: len(header)] for pair in pairs)]


def cell_rows(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """Cells that one sweep has alone as text for a terminal, the header first."""
    named = (*_telling(cells), "weight")
    return [_spoken(named), *(tuple(_level(name, cell[name]) for name in named) for cell in cells)]


def remark(found: Comparison) -> str:
    """The units and the sign of what `rows` shows, and what its intervals and p-values speak of."""
    tested = [one for pair in found.pairs for one in (pair.gap, pair.transfer_accuracy) if one and one.p is not None]
    said = ["In points, paired by seed. Above 0, of a gap: B loses more; of transfer: B serves the component better."]
    if any(one.over == "seeds and test examples" for one in tested):
        said.append("Intervals: 95 %, for other seeds and other test examples.")
    if any(one.over == "seeds" for one in tested):
        said.append("Intervals with *: 95 %, for other seeds on this test set.")
    if tested:
        corrections = " and ".join(dict.fromkeys(one.correction for one in tested))
        said.append(f"Adjusted p: two-sided by t, over all cells that are not equal by {corrections}.")
    return " ".join(said)


def _without_defaults(value: Any) -> Any:
    """A mapping without the keys that say nothing, which most are by default."""
    return {key: entry for key, entry in value.items() if entry not in (None, {})} if isinstance(value, dict) else value


def _row(pair: Pair, named: Sequence[str]) -> tuple[str, ...]:
    return (
        *(_level(name, pair.cell[name]) for name in named),
        " -> ".join(dict.fromkeys(_level("weight", weight) for weight in pair.weights)),
        *_difference_cells(pair.gap),
        *_difference_cells(pair.transfer_accuracy),
        pair.outcome,
        *pair.left_out,
    )


def _difference_cells(found: Difference | None) -> tuple[str, ...]:
    if found is None:
        return ("-", "-", "-", "-", "0")
    star = "*" if found.p is not None and found.over == "seeds" else ""
    return (
        points(found.first),
        points(found.second),
        "same" if found.same else f"{points(found.mean)} {interval(found.low, found.high, found.n)}{star}",
        "-" if found.adjusted_p is None else f"{found.adjusted_p:.2g}",
        str(found.n),
    )


def _telling(cells: Sequence[Cell]) -> tuple[str, ...]:
    """The component, and what else is not the same in all cells, but their weight."""
    names = [name for name in (cells[0] if cells else ()) if name != "weight"]
    return tuple(name for name in names if name == "component" or len({cell[name] for cell in cells}) > 1)


def _level(name: str, value: Any) -> str:
    return "all" if name == "shots" and value is None else level(name, value)


def _spoken(header: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.replace("_", " ") for name in header)
