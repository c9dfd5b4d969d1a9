"""What may be said of a results table? Ranked statements, each with its interval, its seeds and the rows behind it.

Every sweep is asked the same questions by rules that know nothing of its numbers, so that what is said is not what
looked best: of each component in each design, whether it loses; of each change of one factor, with everything else
equal and paired by seed, what it recovers; of each factor, for which components it matters; and of each component, what
to serve it from. Gaps are fractions here, points in sentences; a positive gap is a loss.

What alpha bounds: of all statements that a sweep gets, the expected share of wrong ones. So where nothing at all is
lost or changed, alpha bounds the chance that any loss, gain or change is claimed. It holds for each sweep alone,
whatever else is in the table. The tests of a sweep are two families, of losses and of changes; in each, p-values are
adjusted by Benjamini and Hochberg and then multiplied by the number of families, and a statement is made at an adjusted
p of alpha at most. Their procedure promises this of tests that are independent or depend positively; tests of one sweep
share seeds and baselines, and docs/findings.md has the rates that were measured. Intervals are 95 % each, not adjusted.
`CANNOT_TELL` claims nothing, and a recommendation rests on one of these tests and adds none but, where it compares with
direct training at another scale, that comparison.

The t tests trust the Gaussian, as those of `claims` do, with a deviation of at least what rounding to whole test
examples makes: sqrt(2 / 12) of an example. Fewer than MIN_SEEDS seeds are tested for nothing.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby, pairwise, starmap
from typing import Any, Literal, NamedTuple, TypeAlias

import pandas as pd
from scipy.special import stdtrit

from orchestrator.analysis.gaps import AXES, REASONS, Estimate, estimate, interval, level, listed, points, primary
from orchestrator.analysis.gaps import reasons as gap_reasons
from orchestrator.analysis.measures import DESIGN, BySeed, Floats, Key, by_seed, crossed, keys, paired, shared_seeds
from orchestrator.analysis.statistics import (
    MARGIN,
    MIN_SEEDS,
    benjamini_hochberg,
    omnibus,
    smallest_detectable,
    t_test,
)
from orchestrator.terminal import printable

Kind: TypeAlias = Literal[
    "RECOMMENDATION", "LOSS", "GAIN", "RECOVERY", "COST", "INTERACTION", "EQUIVALENCE", "CANNOT_TELL"
]
Claimed: TypeAlias = Literal["loss", "no loss", "change", "no change"]

ALPHA = 0.05
MOST_STEPS = 8  # levels of a scale beyond which only its ends are compared
PLACE = (*DESIGN, "protocol", "shots")  # what two cells of one component may differ in
SCALES = ("weight", "width", "depth", "steps", "train_examples")
FACTORS = tuple("weight" if axis == "mixture" else axis for axis in AXES)
BASES: Mapping[str, Any] = {"ordering": "shuffled", "representation": "single", "training": None}
SPOKEN = {"steps": "number of steps", "train_examples": "number of distinct examples"}
PLACES = {  # how a sentence says where
    "weight": "at weight {}",
    "mixture": "in the mixture {}",
    "ordering": "with the ordering {}",
    "architecture": "with {}",
    "width": "at width {}",
    "depth": "at depth {}",
    "representation": "with {}",
    "steps": "after {} steps",
    "train_examples": "with {} distinct examples",
    "training": "with the training {}",
    "direct_kind": "against direct training of {}",
    "protocol": "read by {}",
    "shots": "with {} shots",
}
ITSELF = "direct training compared with itself"
CONTROL = "at random initialisation"
ALONE = "of one seed alone"


class RowId(NamedTuple):
    """What tells a row of a results table from every other."""

    sweep: str
    trial: str
    component: str
    seed: int
    protocol: str
    shots: int | None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A statement and what it rests on."""

    kind: Kind
    sweep: str
    components: tuple[str, ...]
    sentence: str  # one line; names between backticks
    effect: float  # fraction of accuracy. A gap (positive: loss); of a RECOVERY or COST the gap before minus after
    low: float  # its 95 % interval over seeds, not adjusted
    high: float
    n: int  # seeds
    p: float | None  # adjusted, of the test that the statement rests on; None: too few seeds for a test
    verdict: str  # what was decided, for programs: `loss`, `no loss`, `only for some`, `train directly`, ...
    left_out: int  # rows that belong here and have no gap
    rows: tuple[RowId, ...]  # exactly those whose numbers are in it

    @property
    def size(self) -> float:
        """How large the effect is at least: the end of the interval that is nearer to 0, or 0 if that is inside."""
        return max(0.0, self.low, -self.high)


@dataclass(frozen=True)
class Findings:
    """The statements about a table, ranked, and how much of it they do not speak of."""

    statements: tuple[Finding, ...]
    rows: int  # of the protocol that answers the sweep's question
    left_out: Mapping[str, int]  # of them, those that are in no statement, by reason
    margin: float
    alpha: float

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.statements)

    def __len__(self) -> int:
        return len(self.statements)

    def _repr_html_(self) -> str:
        """A table for notebooks; every word of it is escaped."""
        header = ("kind", "statement", "effect, points", "95 % interval", "n", "adjusted p")
        rows = [
            (
                one.kind.lower().replace("_", " "),
                one.sentence,
                points(one.effect),
                interval(one.low, one.high, one.n),
                str(one.n),
                "" if one.p is None else f"{one.p:.2g}",
            )
            for one in self
        ]
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        head = "".join(f"<th>{name}</th>" for name in header)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def find(results: pd.DataFrame, *, margin: float = MARGIN, alpha: float = ALPHA) -> Findings:
    """What a results table says, the most important first.

    RECOMMENDATION  one per component that some mixture serves, see `_recommended`
    LOSS, GAIN      a component in a design is served worse, or better, than by direct training
    EQUIVALENCE     a loss of the margin or more is ruled out there
    CANNOT_TELL     neither; with what so many seeds detect with 80 % power in one uncorrected test
    RECOVERY, COST  a change of one factor makes the gap smaller, or larger. Where it changes direct training too,
                    transfer has to get better, or worse: the same test has to hold for both
    INTERACTION     for which components a factor matters, by an F test over its levels (mean over all else), and for
                    which no two of its levels differ by the margin. The levels whose difference is printed are chosen
                    by their gaps, so with three or more that interval describes and the F test decides

    Recommendations come first, those that cannot be given last of them, then what is certain, then equivalences, then
    what cannot be told. Within these the order is by `Finding.size`: a loss of 3 to 9 points comes before one of 2 to
    30. Equivalences are ordered by their upper end, the surest first; what cannot be told by how much may be lost, the
    most first.

    Args:
        results: a results table (`results.COLUMNS`), of one sweep or of several, which are never compared. Of several
            protocols the primary one is read.
        margin: the smallest loss that would matter, a fraction of accuracy.
        alpha: the expected share of wrong statements, see the module.

    Raises:
        ValueError: the margin is not positive, or alpha is not between 0 and 0.5.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"margin is {margin:g}; it is the smallest loss that would matter, so above 0")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha is {alpha:g}; it is the share of statements that may be wrong, so 0.05 for 5 %")
    asked = primary(results[list(_COLUMNS)])
    asked = asked.assign(reason=_reasons(asked))
    of_sweeps = groupby(_cells(asked), key=lambda cell: cell.place["sweep"])  # cells are in order of their sweeps
    statements = [finding for _, cells in of_sweeps for finding in _of_sweep(list(cells), margin, alpha)]
    silent = Counter(asked["reason"].tolist())
    said = {row for finding in statements for row in finding.rows}
    silent[ALONE] = silent.pop("", 0) - len(said)
    counted = {reason: silent[reason] for reason in (*REASONS.values(), ITSELF, CONTROL, ALONE) if silent[reason]}
    return Findings(tuple(sorted(statements, key=_rank)), len(asked), counted, margin, alpha)


def answer(found: Findings) -> tuple[Finding, ...]:
    """The answer in up to three statements: what is lost, what changes that, and what to do about it.

    The first of each in the order of their rank. If nothing is lost for certain, that this is ruled out, or that it
    cannot be told; of the recommendations that for the component that loses.
    """
    lost = _first_of(found, "LOSS") or _first_of(found, "GAIN", "EQUIVALENCE") or _first_of(found, "CANNOT_TELL")
    changes = _first_of(found, "RECOVERY", "COST", "INTERACTION")
    advice = [one for one in found if one.kind == "RECOMMENDATION"]
    best = next((one for one in advice if lost and one.components == lost.components), next(iter(advice), None))
    return tuple(one for one in (lost, changes, best) if one)


def _first_of(found: Findings, *kinds: Kind) -> Finding | None:
    return next((one for one in found if one.kind in kinds), None)


def evidence(results: pd.DataFrame, finding: Finding) -> pd.DataFrame:
    """The rows of a results table that a finding comes from."""
    wanted = set(finding.rows)
    return results[[RowId(*key) in wanted for key in keys(results, RowId._fields)]]


_COLUMNS = (
    *PLACE,
    *("trial", "component", "weight", "seed", "primary", "status", "invalid"),
    *("gap", "transfer_accuracy", "direct_probe_accuracy", "num_test"),
    *("training_flops", "members", "direct_steps", "pretrain_digest", "direct_digest"),
)


def _reasons(table: pd.DataFrame) -> pd.Series[str]:
    """Why a row is not used, as people say it; empty if it is."""
    found = gap_reasons(table).replace(REASONS)
    itself = (table["pretrain_digest"] == table["direct_digest"]).fillna(False).astype(bool)
    control = (table["representation"] == "random_init").fillna(False).astype(bool)
    return found.mask(found.eq("") & itself, ITSELF).mask(found.eq("") & control, CONTROL)


def _rank(finding: Finding) -> tuple[Any, ...]:
    last = finding.sentence, finding.sweep
    if finding.kind == "CANNOT_TELL":
        return 4, -finding.high, *last
    if finding.kind == "EQUIVALENCE" or finding.verdict == "for none":
        return 3, finding.high, *last
    if finding.kind == "RECOMMENDATION":
        return int(finding.verdict == "cannot tell"), -finding.size, *last
    return 2, -finding.size, *last


# What is asked --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Cell:
    """One component in one design: a number per seed, and where it comes from."""

    place: Mapping[str, Any]  # by column of PLACE
    component: str
    weight: float | None
    gap: BySeed
    transfer: BySeed
    direct: BySeed
    ids: Mapping[int, Sequence[RowId]]
    left_out: Counter[str]
    rounding: float  # deviation of a gap that comes of counting whole test examples
    flops: float | None  # of the pretraining
    members: int
    direct_flops: float | None  # of the direct baseline; known of single networks

    def at(self, factor: str) -> Any:
        return self.weight if factor == "weight" else self.place[factor]


@dataclass(frozen=True, eq=False)
class _Loss:
    """Whether a cell loses against direct training, its own or a better one."""

    cell: _Cell
    reference: _Cell
    found: Estimate
    p: float  # that there is a difference
    p_none: float  # that no loss reaches the margin


@dataclass(frozen=True, eq=False)
class _Change:
    """What a change of one factor does to one component, everything else equal."""

    factor: str
    before: Sequence[_Cell]
    after: Sequence[_Cell]
    found: Estimate  # gap before minus gap after; positive: the change helps
    transfer: Estimate | None  # accuracy after minus before, where direct training changes too
    direct: Estimate | None
    p: float
    seeds: Sequence[int]

    @property
    def cells(self) -> Sequence[_Cell]:
        return (*self.before, *self.after)


@dataclass(frozen=True, eq=False)
class _Dependence:
    """Whether the gap of one component depends on a factor, averaged over everything else."""

    component: str
    levels: tuple[str, str]  # with the largest gap and with the smallest
    found: Estimate  # the difference of these two
    p: float
    p_none: float  # that no two levels differ by the margin
    cells: Sequence[_Cell]
    seeds: Sequence[int]


_Test: TypeAlias = _Loss | _Change | _Dependence


@dataclass(frozen=True, eq=False)
class _Offers:
    """The ways to serve one component, and what they compete with."""

    best: _Cell  # with the best direct training. Chosen on the test split, whose noise flatters it, never the mixture
    ways: Sequence[_Loss]


@dataclass(frozen=True)
class _Judged:
    """The adjusted p-values of one sweep, and what its sentences need to know."""

    p: Mapping[tuple[Claimed, _Test], float]
    margin: float
    alpha: float
    shown: Sequence[str]  # of PLACE, what varies in the sweep
    ambiguous: frozenset[str]  # components that weigh the same in several mixtures
    tests: int

    def holds(self, claimed: Claimed, of: _Test) -> bool:
        return self.p[claimed, of] <= self.alpha


def _of_sweep(cells: Sequence[_Cell], margin: float, alpha: float) -> list[Finding]:
    losses = {cell: _loss(cell, cell, margin) for cell in cells}
    changes = [change for factor in FACTORS for change in _changes(cells, factor)]
    dependences = {factor: found for factor in FACTORS if len(found := _dependences(cells, factor, margin)) > 1}
    offers = [_offers(kind, losses, margin) for kind in _served(cells)]
    compared = dict.fromkeys([*losses.values(), *(loss for one in offers for loss in one.ways)])
    dependent = [one for found in dependences.values() for one in found]
    mixtures = Counter((one, weight) for _, one, weight in {(c.place["mixture"], c.component, c.weight) for c in cells})
    judged = _Judged(
        p=_adjusted(list(compared), changes, dependent),
        margin=margin,
        alpha=alpha,
        shown=[name for name in PLACE if len({cell.place[name] for cell in cells}) > 1],
        ambiguous=frozenset(component for (component, _), count in mixtures.items() if count > 1),
        tests=len(compared) + len(changes) + len(dependent),
    )
    statements: list[Finding | None] = [
        *(_recommended(one, judged) for one in offers),
        *(_lost(loss, judged) for loss in losses.values()),
        *(_changed(change, losses, judged) for change in changes),
        *(_matters(factor, of, judged) for factor, of in dependences.items()),
    ]
    return [finding for finding in statements if finding]


def _adjusted(
    losses: Sequence[_Loss], changes: Sequence[_Change], dependences: Sequence[_Dependence]
) -> dict[tuple[Claimed, _Test], float]:
    """Benjamini and Hochberg for each claim, times the number of families that test anything: losses, and changes.

    Within a family both claims, that there is an effect and that none matters, are adjusted over all of its tests:
    they cannot both be wrong about one effect, so that their rates add up to alpha at most. Nothing is asked of a
    single change but whether there is one.
    """
    asked: list[_Change | _Dependence] = [*changes, *dependences]
    claims: dict[Claimed, dict[_Test, float]] = {
        "loss": {one: one.p for one in losses},
        "no loss": {one: one.p_none for one in losses},
        "change": {one: one.p for one in asked},
        "no change": {one: one.p_none if isinstance(one, _Dependence) else 1.0 for one in asked},
    }
    families = sum(not all(map(math.isnan, claims[claimed].values())) for claimed in ("loss", "change"))
    return {
        (claimed, test): min(1.0, families * p) if p == p else p
        for claimed, tests in claims.items()
        if tests
        for test, p in zip(tests, benjamini_hochberg(list(tests.values())).tolist(), strict=True)
    }


def _cells(rows: pd.DataFrame) -> list[_Cell]:
    """Every component in every design that has a gap, sweep after sweep, in an order that the rows' does not change."""
    by = (*PLACE, "component", "weight")
    used = (rows["reason"] == "").to_numpy(dtype=bool)
    good, rest = rows[used], rows[~used]
    gap, transfer, direct = (by_seed(good, by, name) for name in ("gap", "transfer_accuracy", "direct_probe_accuracy"))
    missing: dict[Key, Counter[str]] = {}
    for key, reason in zip(keys(rest, by), rest["reason"], strict=True):
        missing.setdefault(key, Counter())[reason] += 1
    ids: dict[Key, dict[int, list[RowId]]] = {}
    first: dict[Key, Key] = {}
    costs = keys(good, ["num_test", "training_flops", "members", "direct_steps"])
    for key, row, cost in zip(keys(good, by), starmap(RowId, keys(good, RowId._fields)), costs, strict=True):
        plain = row._replace(seed=int(row.seed), shots=None if row.shots is None else int(row.shots))  # for JSON
        ids.setdefault(key, {}).setdefault(plain.seed, []).append(plain)
        first.setdefault(key, cost)
    found = []
    for key in sorted(gap, key=_order):
        *place, component, weight = key
        num_test, flops, members, direct_steps = first[key]
        design = dict(zip(PLACE, place, strict=True))
        alone = design["representation"] == "single" and None not in (flops, direct_steps, design["steps"])
        found.append(
            _Cell(
                place=design,
                component=component,
                weight=weight,
                gap=_by_seed_number(gap[key]),
                transfer=_by_seed_number(transfer[key]),
                direct=_by_seed_number(direct[key]),
                ids=ids[key],
                left_out=missing.get(key, Counter()),
                rounding=math.sqrt(2 / 12) / num_test if num_test else 0.0,
                flops=flops,
                members=members or 1,
                direct_flops=flops / design["steps"] * direct_steps if alone else None,
            )
        )
    return found


def _by_seed_number(values: BySeed) -> BySeed:
    return {seed: values[seed] for seed in sorted(values)}


def _order(key: Iterable[Any]) -> tuple[Any, ...]:
    """Sorts absent values, numbers and text beside each other; of numbers by size."""
    return tuple((isinstance(v, str), v is not None, v if v is not None else 0) for v in key)


def _loss(cell: _Cell, reference: _Cell, margin: float) -> _Loss:
    lost = cell.gap if cell is reference else paired(reference.direct, cell.transfer)
    found = estimate(lost.values())
    if found.n < MIN_SEEDS:
        return _Loss(cell, reference, found, math.nan, math.nan)
    p = t_test(found, least_deviation=cell.rounding)
    return _Loss(cell, reference, found, p, t_test(found, margin, "less", least_deviation=cell.rounding))


def _contexts(cells: Sequence[_Cell], factor: str) -> dict[Key, dict[Any, list[_Cell]]]:
    """By component and everything that is equal, the cells at each level of a factor.

    For the weight of a component, mixtures that give it the same one are one level.
    """
    rest = [name for name in PLACE if name != ("mixture" if factor == "weight" else factor)]
    found: dict[Key, dict[Any, list[_Cell]]] = {}
    for cell in cells:
        if factor != "weight" or cell.weight is not None:
            key = (cell.component, *(cell.place[name] for name in rest))
            found.setdefault(key, {}).setdefault(cell.at(factor), []).append(cell)
    return found


def _changes(cells: Sequence[_Cell], factor: str) -> Iterator[_Change]:
    """The steps of a scale and its ends; of anything else every level against the usual one, or every pair."""
    for levels in _contexts(cells, factor).values():
        if factor in SCALES:
            in_order = sorted(levels, key=lambda value: _size(factor, value))
            pairs = list(pairwise(in_order)) if len(in_order) <= MOST_STEPS else []
            pairs += [(in_order[0], in_order[-1])] if len(pairs) != 1 and len(in_order) > 1 else []
        elif factor in BASES and BASES[factor] in levels:
            pairs = [(BASES[factor], value) for value in levels if value != BASES[factor]]
        else:
            pairs = list(combinations(levels, 2))
        directed = factor in SCALES or factor in BASES
        for before, after in pairs:
            change = _change(factor, levels[before], levels[after])
            if change and not directed and change.found.mean < 0:
                change = _change(factor, levels[after], levels[before])
            if change:
                yield change


def _size(factor: str, value: Any) -> float:
    """Where a level lies on its scale: without a number of examples all are used, an own depth comes first."""
    return float(value) if value is not None else (math.inf if factor == "train_examples" else -math.inf)


def _change(factor: str, before: Sequence[_Cell], after: Sequence[_Cell]) -> _Change | None:
    gap, transfer, direct = (
        paired(_mean([getattr(cell, name) for cell in after]), _mean([getattr(cell, name) for cell in before]))
        for name in ("gap", "transfer", "direct")
    )
    if len(gap) < 2:
        return None
    found, gained = estimate(-change for change in gap.values()), estimate(transfer.values())
    same_direct = all(abs(change) < 1e-12 for change in direct.values())
    rounding = max(cell.rounding for cell in (*before, *after))
    p = t_test(found, least_deviation=rounding) if found.n >= MIN_SEEDS else math.nan
    if not same_direct and not math.isnan(p):
        agree = found.mean * gained.mean > 0
        p = max(p, t_test(gained, least_deviation=rounding)) if agree else 1.0
    moved = None if same_direct else estimate(direct.values())
    return _Change(factor, before, after, found, None if same_direct else gained, moved, p, sorted(gap))


def _mean(groups: Sequence[BySeed]) -> BySeed:
    """The mean within each seed that all groups have."""
    return {seed: math.fsum(group[seed] for group in groups) / len(groups) for seed in shared_seeds(*groups)}


def _dependences(cells: Sequence[_Cell], factor: str, margin: float) -> list[_Dependence]:
    """By component, over the designs that share the most levels of a factor."""
    of_component: dict[str, dict[Key, dict[Any, list[_Cell]]]] = {}
    for (component, *rest), levels in _contexts(cells, factor).items():
        of_component.setdefault(component, {})[tuple(rest)] = levels
    found = []
    for component, of_design in of_component.items():
        gaps = {
            design: {(value,): _mean([cell.gap for cell in group]) for value, group in levels.items()}
            for design, levels in of_design.items()
        }
        designs, names, cube = crossed(gaps)
        if len(names) < 2 or len(cube) < 2:
            continue
        worst, best = int(cube.mean(axis=0).argmax()), int(cube.mean(axis=0).argmin())
        used = [cell for design in designs for group in of_design[design].values() for cell in group]
        p, p_none = _levels(cube, worst, best, margin, max(cell.rounding for cell in used))
        found.append(
            _Dependence(
                component=component,
                levels=(_named_level(factor, names[worst][0]), _named_level(factor, names[best][0])),
                found=estimate(cube[:, worst] - cube[:, best]),
                p=p,
                p_none=p_none,
                cells=used,
                seeds=shared_seeds(*(seeds for design in designs for seeds in gaps[design].values())),
            )
        )
    return found


def _levels(cube: Floats, worst: int, best: int, margin: float, rounding: float) -> tuple[float, float]:
    """The p-values that the levels of (S, L) gaps differ, and that no two of them do so by the margin."""
    if len(cube) < MIN_SEEDS:
        return math.nan, math.nan
    differences = [cube[:, i] - cube[:, j] for i, j in combinations(range(cube.shape[1]), 2)]
    none = max(
        t_test(estimate(sign * difference), margin, "less", least_deviation=rounding)
        for difference in differences
        for sign in (1, -1)
    )
    if len(differences) == 1:
        return t_test(estimate(cube[:, worst] - cube[:, best]), least_deviation=rounding), none
    return omnibus(cube - cube.mean(axis=1, keepdims=True), cube.shape[1] - 1), none


def _served(cells: Sequence[_Cell]) -> Iterable[Sequence[_Cell]]:
    """By component, the cells of mixtures that it could be served from."""
    kinds: dict[Key, list[_Cell]] = {}
    for cell in cells:
        if len(cell.gap) > 1 and (cell.weight is None or cell.weight < 1):
            kinds.setdefault((cell.component, cell.place["protocol"], cell.place["shots"]), []).append(cell)
    return kinds.values()


def _offers(cells: Sequence[_Cell], losses: Mapping[_Cell, _Loss], margin: float) -> _Offers:
    best = max(cells, key=lambda cell: (estimate(cell.direct.values()).mean, cell.direct_flops is not None))
    return _Offers(best, [_offer(cell, best, losses, margin) for cell in cells])


def _offer(cell: _Cell, best: _Cell, losses: Mapping[_Cell, _Loss], margin: float) -> _Loss:
    same = all(abs(direct - best.direct.get(seed, math.inf)) < 1e-12 for seed, direct in cell.direct.items())
    few = len(shared_seeds(best.direct, cell.transfer)) < 2
    return losses[cell] if same or few else _loss(cell, best, margin)


# What is said ---------------------------------------------------------------------------------------------------------


def _recommended(offers: _Offers, judged: _Judged) -> Finding:
    """What to serve a component from: the cheapest cell in which a loss of the margin is ruled out.

    Cheap is few training FLOPs, then few networks, then a small upper end. Where there is none, direct training if
    even the cell that loses least is certain to lose, and its mean reaches the margin; where that is not so either,
    it cannot be told. A mixture of the component alone is direct training, and no way to serve it from a mixture.
    """
    proven = [way for way in offers.ways if judged.holds("no loss", way)]
    way = min(proven, key=_cost) if proven else min(offers.ways, key=lambda one: one.found.mean)
    cell, found, p = way.cell, way.found, judged.p["no loss" if proven else "loss", way]
    name, source = _named(cell.component), _source(cell, judged)
    better = "" if way.reference is cell else _place(way.reference, judged, *BASES, "weight")
    gap = f"the gap to direct training{better and f' {better}'} is {_amount(found)} {_basis(found, p, cell)}"
    nearest = f"in the best of {len(offers.ways)} ways" if len(offers.ways) > 1 else "in the one way"
    if proven:
        verdict = "serve from the mixture" if _is_single(cell) else f"serve from {cell.place['representation']}"
        says = f"Serve {name} from {source}: {gap}, and no loss is larger than {_margin(judged)}."
    elif judged.holds("loss", way) and found.mean >= judged.margin:
        verdict = "train directly"
        says = f"Train {name} directly: {nearest} to serve it, {source}, {gap}."
    else:
        verdict = "cannot tell"
        certain = "a loss is certain" if judged.holds("loss", way) else "no loss is certain"
        says = (
            f"Cannot tell whether to train {name} directly: {nearest} to serve it, {source}, {gap}; among "
            f"{judged.tests} tests {certain}, and one of {_margin(judged)} is not ruled out."
        )
    cells = [cell] if way.reference is cell else [cell, way.reference]
    sentence = f"{says} {_price(cell, offers.best)}"
    return _finding("RECOMMENDATION", verdict, sentence, found, p, [(cells, _seeds(way))])


def _lost(loss: _Loss, judged: _Judged) -> Finding | None:
    """A loss, a gain, no loss that matters, or that it cannot be told; nothing from one seed."""
    cell, found, p = loss.cell, loss.found, judged.p["loss", loss]
    if found.n < 2:
        return None
    certain, none = judged.holds("loss", loss), judged.holds("no loss", loss)
    name, place, who = _named(cell.component), _place(cell, judged), _subject(cell)
    kind: Kind
    if certain and found.mean < 0:
        kind, verdict = "GAIN", "gain"
        gain = _amount(_negative(found))
        says = f"{who} serves {name} better than direct training does, by {gain} {_basis(found, p, cell)}"
    elif none:
        kind, verdict, p = "EQUIVALENCE", "no loss", judged.p["no loss", loss]
        known = f"the gap is {_amount(found)} {_basis(found, p, cell)}"
        says = f"there is no loss of {name} larger than {_margin(judged)}: {known}"
    elif certain:
        kind, verdict = "LOSS", "loss"
        says = f"{who} loses {_amount(found)} of {name} {_basis(found, p, cell)}"
    else:
        kind, verdict = "CANNOT_TELL", "cannot tell"
        known = f"the gap is {_amount(found)} {_basis(found, p, cell)}{_doubt(found, judged)}"
        says = f"it cannot be told whether {who} loses any of {name}: {known}"
    return _finding(kind, verdict, _sentence(place, says), found, p, [([cell], _seeds(loss))])


def _changed(change: _Change, losses: Mapping[_Cell, _Loss], judged: _Judged) -> Finding | None:
    """What a change recovers or costs, if it does."""
    if not judged.holds("change", change):
        return None
    cell, found, p = change.before[0], change.found, judged.p["change", change]
    name = "it" if change.factor == "weight" else _named(cell.component)
    move = _move(change.factor, cell, change.after[0])
    basis = _basis(found, p, *change.cells, mixtures=max(len(change.before), len(change.after)))
    before = [losses[one] for one in change.before]
    kind: Kind
    if found.mean < 0:
        kind, verdict, says = "COST", "costs", f"{move} costs {name} {_amount(_negative(found))} {basis}"
    else:
        kind, verdict, says = "RECOVERY", "recovers", f"{move} serves {name} better by {_amount(found)} {basis}"
        if all(judged.holds("loss", loss) and loss.found.mean > 0 for loss in before):
            gaps = _mean([one.gap for one in change.before])
            lost = math.fsum(gaps[seed] for seed in change.seeds) / found.n
            says = f"{move} recovers {_amount(found)} of the {points(lost)} that are lost of {name} {basis}"
    if change.transfer and change.direct:
        says += f"; transfer changes by {_amount(change.transfer)}, direct training by {_amount(change.direct)}"
    place = _place(cell, judged, change.factor)
    return _finding(kind, verdict, _sentence(place, says), found, p, [(change.cells, change.seeds)])


def _matters(factor: str, dependences: Sequence[_Dependence], judged: _Judged) -> Finding | None:
    """For which components a factor matters."""
    tested = sorted(dependences, key=lambda one: -one.found.mean)
    none = [one for one in tested if judged.holds("no change", one)]
    some = [one for one in tested if one not in none and judged.holds("change", one)]
    rest = [one for one in tested if one not in none and one not in some]
    most = (some or rest or none)[0]
    what, p = f"the {_spoken(factor)}", judged.p["change" if some or rest else "no change", most]
    between = f"between {most.levels[0]} and {most.levels[1]} the gap of {_named(most.component)} differs by"
    known = f"{between} {_amount(most.found)} {_basis(most.found, p, *most.cells)}"
    kind: Kind = "INTERACTION"
    if some:
        verdict = "for some" if rest else "only for some" if none else "for all"
        whom = (
            ("both components" if len(some) == 2 else f"all {len(some)} components")
            if verdict == "for all"
            else _names(some)
        )
        above = f", most for {_named(most.component)}" if len(some) > 1 else ""
        says = f"{what} matters {'only ' if verdict == 'only for some' else ''}for {whom}{above}: {known}"
        if none:
            says += (
                f"; for {_names(none)} no two levels differ by {_margin(judged)}, at most by {_amount(none[0].found)}"
            )
        if rest:
            says += f"; for {_names(rest)} it cannot be told, the most is {_amount(rest[0].found)}"
    elif rest:
        kind, verdict = "CANNOT_TELL", "cannot tell"
        says = f"it cannot be told for {_names(rest)} whether {what} matters: {known}{_doubt(most.found, judged)}"
    else:
        verdict = "for none"
        says = f"{what} matters for none of {len(none)} components, no two levels differ by {_margin(judged)}: {known}"
    used = [(one.cells, one.seeds) for one in tested]
    return _finding(kind, verdict, _sentence("", says), most.found, p, used)


def _finding(
    kind: Kind,
    verdict: str,
    sentence: str,
    found: Estimate,
    p: float,
    used: Iterable[tuple[Sequence[_Cell], Sequence[int]]],
) -> Finding:
    assert found.low is not None
    assert found.high is not None
    pairs = [(cell, seeds) for cells, seeds in used for cell in cells]
    rows = {row for cell, seeds in pairs for seed in seeds for row in cell.ids[seed]}
    return Finding(
        kind=kind,
        sweep=pairs[0][0].place["sweep"],
        components=tuple(dict.fromkeys(cell.component for cell, _ in pairs)),
        sentence=sentence,
        effect=found.mean,
        low=found.low,
        high=found.high,
        n=found.n,
        p=None if math.isnan(p) else p,
        verdict=verdict,
        left_out=sum(sum(cell.left_out.values()) for cell, _ in pairs),
        rows=tuple(sorted(rows, key=_order)),
    )


def _cost(way: _Loss) -> tuple[float, int, float]:
    upper = math.inf if way.found.high is None else way.found.high
    return math.inf if way.cell.flops is None else way.cell.flops, way.cell.members, upper


def _seeds(loss: _Loss) -> list[int]:
    return shared_seeds(loss.reference.direct, loss.cell.transfer)


def _negative(found: Estimate) -> Estimate:
    assert found.low is not None
    assert found.high is not None
    return Estimate(-found.mean, -found.high, -found.low, found.n)


def _is_single(cell: _Cell) -> bool:
    return bool(cell.place["representation"] == "single")


# Words ----------------------------------------------------------------------------------------------------------------


def _sentence(place: str, says: str) -> str:
    text = f"{place}, {says}." if place else f"{says}."
    return text[0].upper() + text[1:]


def _subject(cell: _Cell) -> str:
    if cell.weight == 0:
        return "pretraining without it"
    return "pretraining on it alone" if cell.weight == 1 else "the mixture"


def _place(cell: _Cell, judged: _Judged, *without: str) -> str:
    """What tells a cell from the sweep's others, for example `at weight 0.02, after 400 steps`."""
    found = []
    for name in judged.shown:
        if name == "mixture" and cell.component not in judged.ambiguous and cell.weight is not None:
            name = "weight"  # it says which mixture
        if name not in without and not (name == "mixture" and "weight" in without):
            found.append(PLACES[name].format(_named_level(name, cell.at(name))))
    return ", ".join(found)


def _source(cell: _Cell, judged: _Judged) -> str:
    """For example `the mixture at weight 0.02` or `cat:4` at width 2."""
    what = "the mixture" if _is_single(cell) else _named(cell.place["representation"])
    place = _place(cell, judged, "representation")
    return f"{what} {place}" if place else what


def _move(factor: str, before: _Cell, after: _Cell) -> str:
    """A change of a factor, as the subject of a sentence."""
    start, end = before.at(factor), after.at(factor)
    old, new = _named_level(factor, start), _named_level(factor, end)
    if factor == "weight":
        return f"raising the weight of {_named(before.component)} from {old} to {new}"
    if factor == "representation":
        return f"{new} in place of {old}"
    if factor in SCALES and start and end and (end / start).is_integer():
        times = "doubling" if end == 2 * start else f"{end / start:g} times"
        return f"{times} the {_spoken(factor)} ({old} to {new})"
    return f"{_spoken(factor)} {new} in place of {old}"


def _price(cell: _Cell, best: _Cell) -> str:
    """What serving from a cell and training directly take."""
    networks = "1 network" if cell.members == 1 else f"{cell.members} networks"
    direct = f"direct training {_flops(best.direct_flops)} and 1 network for {_named(best.component)} alone"
    return f"It costs {_flops(cell.flops)} and {networks} for all components together, {direct}."


def _flops(number: float | None) -> str:
    return (
        "unknown training FLOPs"
        if number is None
        else f"{number:.1e} training FLOPs".replace("e+0", "e").replace("e+", "e")
    )


def _basis(found: Estimate, p: float, *cells: _Cell, mixtures: int = 1) -> str:
    """In brackets: the seeds, the adjusted p-value, what was averaged, what is missing."""
    remarks = [f"n = {found.n}"]
    if not math.isnan(p):
        remarks.append("adjusted p < 0.0001" if p < 0.0001 else f"adjusted p = {p:.2g}")
    if mixtures > 1:
        remarks.append(f"mean over {mixtures} mixtures")
    gone = sum((cell.left_out for cell in cells), Counter[str]())
    if gone:
        remarks.append(f"left out: {', '.join(f'{gone[reason]} {reason}' for reason in sorted(gone))}")
    return f"({', '.join(remarks)})"


def _doubt(found: Estimate, judged: _Judged) -> str:
    """Why it cannot be told, and what could be."""
    assert found.low is not None
    assert found.high is not None
    if found.n < MIN_SEEDS:
        return f"; {MIN_SEEDS} seeds are the least that are tested"
    deviation = (found.high - found.low) / 2 / float(stdtrit(found.n - 1, 0.975)) * math.sqrt(found.n)
    detects = f"; {found.n} seeds detect {points(smallest_detectable(deviation, found.n, level=judged.alpha))} points"
    alone = found.low > 0 or found.high < judged.margin
    return detects + (f"; the interval alone would decide, but it is one of {judged.tests} tests" if alone else "")


def _amount(found: Estimate) -> str:
    """For example `5.6 points [4.9, 6.3]`."""
    return f"{points(found.mean)} points {interval(found.low, found.high, found.n)}"


def _margin(judged: _Judged) -> str:
    size = f"{100 * judged.margin:.3g}"
    return f"{size} point{'' if size == '1' else 's'}"


def _names(dependences: Sequence[_Dependence]) -> str:
    return listed([_named(one.component) for one in dependences])


def _spoken(name: str) -> str:
    return SPOKEN.get(name, name).replace("_", " ")


def _named_level(name: str, value: Any) -> str:
    if name == "shots":
        return "all" if value is None else str(value)
    return _named(level(name, value)) if isinstance(value, str) else level(name, value)


def _named(text: Any) -> str:
    """A name between backticks, on one line, with nothing in it that a terminal obeys."""
    return f"`{' '.join(printable(str(text)).replace('`', chr(39)).split())}`"
