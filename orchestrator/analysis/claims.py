"""What does a table say about the claims of the information saturation bottleneck? A verdict for each, by a rule.

The rules were written before any table was seen. Each is in the docstring of its claim's function, and all share this:

    effect       positive where the claim is right; paired by seed, with a 95 % t interval
    supported    for some component (and design, where the claim is about one) the effect is distinguishable from 0:
                 p <= 0.05 after Holm over all that were looked at, so that few components are not an advantage.
                 p is two-sided and counts as 1 on the wrong side, so that it agrees with the interval
    contradicted an effect that matters (MARGIN, half a point) is ruled out for all of them, at 95 % each
    inconclusive anything else: more seeds would decide
    not tested   the table does not vary what the claim is about; the sentence says what to vary

Where a claim needs several things at once, its p is the largest of theirs (intersection-union test, Berger 1982).
Fewer than MIN_SEEDS seeds support nothing, fewer than CLAIM_SEEDS are called scouting. The t tests trust the Gaussian;
the exact sign-flip test of `statistics` does not, but needs 5 seeds to reject at all and 6 or more after Holm.
In 600 simulated tables of 5 seeds without an effect, or with all that a claim needs but one, it was supported in 3.5 %
(C1), 1.7 % (C2), 3.3 % (C3, of 300), 4.0 and 3.3 % (C4a, C4b), 1.8 and 2.5 % (C5a, C5b), 0.7 % (C6), 1.3 % (C7), 0.8 %
(C8).
Rows that are invalid or not ok are never used. Source of the claims: Yang, Zhang & Bottou (2025), arXiv:2506.18221.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from scipy.special import bdtrc, stdtr, stdtrit

from orchestrator.analysis import fits
from orchestrator.analysis.gaps import Estimate, estimate, level, listed, primary
from orchestrator.analysis.ladder import Ladder, ladder
from orchestrator.analysis.measures import (
    DESIGN,
    BySeed,
    Floats,
    Key,
    balanced,
    by_seed,
    crossed,
    deviation,
    invalid_by,
    keys,
    matrix,
    nested,
    paired,
    shared_seeds,
    usable,
)
from orchestrator.analysis.statistics import MARGIN, MIN_SEEDS, holm, omnibus, t_test
from orchestrator.analysis.trajectories import HALF, collapse

Verdict: TypeAlias = Literal["supported", "contradicted", "inconclusive", "not tested"]

LEVEL = 0.05
CLAIM_SEEDS = 5
SOURCE_MARGIN = 0.01  # of accuracy: a smaller change of the source is none
R2_MARGIN = 0.05  # of predictability: a smaller difference does not matter
SCALES = ("width", "depth", "steps", "train_examples")

STATEMENTS = {
    "C1": "Features pretrained on a mixture do not match direct training, even on the mixture's components.",
    "C2": "Once competing features are encoded, the network stops learning new ones.",
    "C3": "The loss is permanent: neither more steps nor fine-tuning on few examples makes up for it.",
    "C4a": "The weights of the mixture change which features are learned.",
    "C4b": "The order of the same examples changes which features are learned.",
    "C5a": "The loss is there with every architecture.",
    "C5b": "Scale alone does not make up for the loss.",
    "C6": "A bias to sparsity is the cause: weight decay costs transfer and not the source.",
    "C7": "Networks side by side recover a part of the loss, at no cost for the source.",
    "C8": "Pretrained features are inconsistent: they differ from seed to seed.",
}
SWEEPS = {  # the canonical sweep that decides each
    "C1": "s01-mixture-weight",
    "C2": "s12-trajectory-saturation",
    "C3": "s14-finetune-recovery",
    "C4a": "s01-mixture-weight",
    "C4b": "s05-ordering",
    "C5a": "s08-architecture",
    "C5b": "s07-scale-floor",
    "C6": "s02-weight-decay-tradeoff",
    "C7": "s03-timecat-matched-compute",
    "C8": "s04-cat-wide-distill",
}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim, the verdict on it, and what it rests on."""

    id: str  # a key of STATEMENTS
    statement: str
    verdict: Verdict
    effect: float | None = None  # of the strongest case, in `unit`; positive: as the claim says
    low: float | None = None  # its 95 % interval over seeds, not adjusted
    high: float | None = None
    unit: str = "points"
    n: int | None = None  # seeds
    p: float | None = None  # adjusted by Holm over the family
    basis: str  # which rows
    sentence: str  # the verdict and why, for people
    sweep: str  # the canonical sweep that decides it


def verdicts(table: pd.DataFrame) -> list[Claim]:
    """A verdict on every claim of STATEMENTS, in their order.

    Args:
        table: a results table, of one sweep or of several; rows of different sweeps are never paired.
    """
    table = table[list(_COLUMNS)]  # selecting rows of all columns takes longer than everything else
    valid = usable(table)
    asked = primary(valid)
    single = asked[asked["representation"] == "single"]
    gone = sum(invalid_by(table, []).values())
    found = [
        _c1(single),
        _c2(single),
        _c3(table, single),
        _c4a(single),
        _c4b(single),
        _c5a(single),
        _c5b(single),
        _c6(single),
        _c7(asked),
        _c8(asked),
    ]
    if not gone:
        return found
    return [replace(claim, basis=f"{claim.basis}; {gone} invalid rows left out") for claim in found]


_COLUMNS = (
    *DESIGN,
    *("trial", "component", "weight", "seed", "protocol", "shots", "primary", "status", "invalid"),
    *("gap", "transfer_accuracy", "direct_probe_accuracy", "head_accuracy", "validation_accuracy"),
    *("retention", "predictability_ceiling", "member_predictability", "effective_rank"),
    *("final_saturation", "saturation_step", "retention_step", "retention_after"),
)


# Cases: the members of a family, and what follows from all of them ----------------------------------------------------


@dataclass(frozen=True)
class _Case:
    """One component, perhaps in one design: what was found there."""

    name: str
    effect: Estimate  # positive: as the claim says
    p: float  # that all that the claim needs is not by chance, before Holm; nan: cannot be tested
    ruled_out: bool  # an effect that matters cannot be there
    remark: str = ""  # what else a reader must know about this case


def _case(name: str, values: Iterable[float], *, margin: float = MARGIN, also: Sequence[float] = ()) -> _Case:
    """A case from one effect per seed; `also` are the p-values of what else the claim needs."""
    effect = estimate(values)
    enough = effect.n >= MIN_SEEDS
    p = _all([_p_above(effect), *also]) if enough else math.nan
    return _Case(name, effect, p, enough and _upper(effect) < margin)


def _all(p_values: Sequence[float]) -> float:
    """The p-value that all of several things hold: the largest, nan if one could not be tested."""
    return float(np.max(p_values))


def _p_above(found: Estimate, threshold: float = 0.0) -> float:
    """The two-sided p-value that the mean differs from the threshold; 1 where it lies below. nan from one seed."""
    if found.low is None or found.high is None:
        return math.nan
    return t_test(found, threshold) if found.mean > threshold else 1.0


def _upper(found: Estimate) -> float:
    """The one-sided 95 % bound of the mean; infinite from one seed."""
    if found.low is None or found.high is None:
        return math.inf
    half = (found.high - found.low) / 2
    return found.mean + half * float(stdtrit(found.n - 1, 0.95) / stdtrit(found.n - 1, 0.975))


def _adjusted(cases: Sequence[_Case]) -> list[float]:
    """Holm over the family; nan where a case cannot be tested."""
    return [float(p) for p in holm([case.p for case in cases])] if cases else []


def _decide(
    identifier: str,
    cases: Sequence[_Case],
    *,
    about: str,
    basis: str,
    unit: str = "points",
    against: str = "",
    remark: str = "",
) -> Claim:
    """The verdict that follows from a family by the rules of the module.

    Args:
        about: what the effect is, for example `gap`.
        against: why support does not count here; empty if it does.
        remark: said at the end whatever the verdict.
    """
    p_values = _adjusted(cases)
    ranked = sorted(zip(cases, p_values, strict=True), key=lambda found: (_rank(found[1]), -abs(found[0].effect.mean)))
    sure = [found for found in ranked if found[1] <= LEVEL and not found[0].ruled_out]
    verdict: Verdict
    if sure:
        case, p = max(sure, key=lambda found: abs(found[0].effect.mean))
        verdict = "inconclusive" if against else "supported"
        why = f"{case.name} has a {about} of {_shown(case.effect, unit)}"
    elif all(case.ruled_out for case in cases):
        case, p = max(ranked, key=lambda found: abs(found[0].effect.mean))
        verdict = "contradicted"
        why = f"{_all_of(cases)} a {about} that matters is ruled out, the largest is {_shown(case.effect, unit)}"
    else:
        case, p = next(found for found in ranked if not found[0].ruled_out)
        verdict = "inconclusive"
        why = f"the {about} of {case.name} is {_shown(case.effect, unit)}"
        few = case.effect.n < MIN_SEEDS
        why += f", and {MIN_SEEDS} seeds are the least that are tested" if few else _doubt(p, len(cases))
    remarks = [case.remark, against if sure else "", remark, _scouting(case.effect.n)]
    scale = 100 if unit == "points" else 1
    low, high = (None if end is None else scale * end for end in (case.effect.low, case.effect.high))
    return _claim(
        identifier,
        verdict,
        sentence=" ".join([f"{why[:1].upper()}{why[1:]}.", *(remark for remark in remarks if remark)]),
        basis=basis,
        effect=scale * case.effect.mean,
        low=low,
        high=high,
        unit=unit,
        n=case.effect.n,
        p=None if math.isnan(p) else p,
    )


def _rank(p: float) -> float:
    return math.inf if math.isnan(p) else p


def _doubt(p: float, size: int) -> str:
    if math.isnan(p):
        return ", and it takes more seeds to test it"
    family = f" after Holm over {size}" if size > 1 else ""
    return f", not enough to decide (p = {p:.2g}{family})"


def _all_of(cases: Sequence[_Case]) -> str:
    return f"for {cases[0].name}" if len(cases) == 1 else f"for all {len(cases)} cases"


def _scouting(n: int) -> str:
    return f"{n} seeds are scouting; a claim takes {CLAIM_SEEDS}." if MIN_SEEDS <= n < CLAIM_SEEDS else ""


def _shown(found: Estimate, unit: str) -> str:
    """For example `10.0 points [9.0, 11.0] (n = 5)`."""
    scale = 100 if unit == "points" else 1
    digits = 1 if unit == "points" else 2
    value = f"{scale * found.mean:.{digits}f}{f' {unit}' if unit in ('points', 'R2') else ''}"
    if found.low is None or found.high is None:
        return f"{value} (one seed)"
    return f"{value} [{scale * found.low:.{digits}f}, {scale * found.high:.{digits}f}] (n = {found.n})"


def _not_tested(identifier: str, instead: str) -> Claim:
    return _claim(identifier, "not tested", sentence=f"Not tested: {instead}.", basis="no rows")


def _claim(identifier: str, verdict: Verdict, **found: Any) -> Claim:
    return Claim(id=identifier, statement=STATEMENTS[identifier], verdict=verdict, sweep=SWEEPS[identifier], **found)


# The claims -----------------------------------------------------------------------------------------------------------


def _c1(single: pd.DataFrame) -> Claim:
    """C1: a component of the mixture has a gap.

    Family: components with a weight above 0, the gap of each averaged within every seed over all designs. Effect: that
    mean gap. Contradicted only if a gap that matters is also ruled out in every design, for an average may hide one.
    Rows whose baseline had the same examples and steps are used alone where there are any.
    """
    seen = single[(single["weight"] > 0).fillna(False).astype(bool)]
    matched = seen[seen["direct_kind"] == "same_examples"]
    rows = matched if len(matched) else seen
    cases, designs = [], 0
    for (component,), of_design in nested(by_seed(rows, ["component", "sweep", "trial"], "gap"), inner=2).items():
        mean, used = balanced(of_design.values())
        case = _case(f"`{component}`", mean.values())
        everywhere = all(_case("", losses.values()).ruled_out for losses in of_design.values())
        cases.append(replace(case, ruled_out=case.ruled_out and everywhere))
        designs = max(designs, used)
    if not cases:
        return _not_tested("C1", "it takes a direct baseline and a component with a weight above 0")
    kinds = sorted(set(rows["direct_kind"].dropna()))
    saw_more = (
        "" if len(matched) else f"The baseline is {listed(kinds)}: part of a gap may be that the mixture saw less."
    )
    basis = f"single networks, weight above 0, mean over {designs} designs, baseline {listed(kinds)}"
    return _decide("C1", cases, about="gap", basis=basis, remark=saw_more)


def _c2(single: pd.DataFrame) -> Claim:
    """C2: where something is lost, its training signal collapses before it is learned, and it is not learned after.

    Family: every component of every design. A case supports the claim if its gap is above 0, the retention at the end
    is below one half, and in every seed the signal collapses: its saturation falls below 0.05 before retention
    reaches one half, and retention then stays flat or declines (`trajectories.collapse`).
    Effect: one half minus the retention at the end.

    What supports it does not count if the same is found where nothing is lost (a gap of MARGIN is ruled out): then
    the collapse says nothing about the loss. Contradicted if there are gaps, and no seed of any of them collapses.
    """
    measured = single[single["retention"].notna() & single["final_saturation"].notna() & single["gap"].notna()]
    if measured.empty:
        return _not_tested("C2", "measure trajectories and retention in a mixture that loses something")
    by = ["component", "sweep", "trial", "weight"]
    outcomes = collapse(measured.assign(final_retention=measured["retention"]), by)
    gap, retention = (by_seed(measured, by, name) for name in ("gap", "retention"))
    cases, late, controls = [], [], []
    for key, collapsed in zip(keys(outcomes, by), outcomes["collapsed"].tolist(), strict=True):
        n, place, loss = len(gap[key]), _place(key[0], key[-1]), _case("", gap[key].values())
        case = _case(place, (HALF - kept for kept in retention[key].values()), also=[loss.p])
        if loss.ruled_out:
            controls += [place] if collapsed == n and _p_above(case.effect) <= LEVEL else []
            continue
        remark = (
            f"The gap is {_shown(loss.effect, 'points')}; the training signal collapses in {collapsed} of {n} seeds."
        )
        cases.append(replace(case, p=case.p if collapsed == n else 1.0, ruled_out=False, remark=remark))
        late.append((loss.p, collapsed == 0))
    if not cases:
        return _claim("C2", "inconclusive", sentence="Nothing is lost that could have been crowded out.", basis=_C2)
    never = [none for p, (_, none) in zip(holm([p for p, _ in late]), late, strict=True) if p <= LEVEL]
    if never and all(never):
        why = f"In no seed of the {len(never)} cases with a gap does the training signal collapse first."
        return _claim("C2", "contradicted", sentence=why, basis=_C2)
    against = f"But it is the same where nothing is lost, for {listed(controls)}." if controls else ""
    about = "shortfall of retention below one half"
    return _decide("C2", cases, about=about, unit="retention", basis=_C2, against=against)


_C2 = "single networks with a trajectory and retention, each component in each design"


def _place(component: Any, weight: Any) -> str:
    return f"`{component}`" if weight is None else f"`{component}` at weight {level('weight', weight)}"


def _c3(table: pd.DataFrame, single: pd.DataFrame) -> Claim:
    """C3: a gap is still there after the most steps, and after fine-tuning on few examples.

    Family: every component of every design that differs from another in its steps, or has few-shot fine-tuning of its
    longest run. A case needs the gap with the fewest steps to be above 0, so that there is something to make up for,
    and what is left after continuing and after fine-tuning to be above 0. Effect: the smaller of these two remainders.
    Both have to be measured for support. Contradicted if wherever there is a gap one of them closes it: what is left
    is below MARGIN.
    """
    rest = [name for name in DESIGN if name not in ("steps", "representation")]
    by = ["component", "weight", *rest, "steps"]
    of_steps = nested(by_seed(single, by, "gap"))
    ladders = ladder(table) if table["shots"].notna().any() else []
    varying = {name for found in ladders for name in found.design}
    tuned = {
        (found.component, found.weight, *(found.design.get(name) for name in (*rest, "steps"))): few_shot
        for found in ladders
        if (few_shot := _few_shot(found))
    }
    cases, closed, ways = [], [], set()
    for key, levels in of_steps.items():
        in_order = sorted(levels, key=lambda steps: steps[0] or 0)
        shortest, longest = levels[in_order[0]], levels[in_order[-1]]
        longest_design = dict(zip((*rest, "steps"), (*key[2:], *in_order[-1]), strict=True))
        few = tuned.get((*key[:2], *(value if name in varying else None for name, value in longest_design.items())))
        left = {"more steps": estimate(longest.values())} if len(levels) > 1 else {}
        if few:
            left["few-shot fine-tuning"] = few
        if not left:
            continue
        ways |= set(left)
        initial = estimate(shortest.values())
        least = min(left.values(), key=lambda found: found.mean)
        enough = min(initial.n, *(found.n for found in left.values())) >= MIN_SEEDS
        p = _all([_p_above(initial), *map(_p_above, left.values())]) if enough else math.nan
        after = [f"after {way} {_shown(found, 'points')}" for way, found in left.items()]
        remark = f"The gap is {_shown(initial, 'points')}, and {listed(after)}."
        cases.append(_Case(_place(*key[:2]), least, p, enough and min(map(_upper, left.values())) < MARGIN, remark))
        closed.append(_p_above(initial) if enough else math.nan)
    if not cases:
        return _not_tested("C3", "vary `steps`, or give `finetune` some `shots`")
    lost = [case for case, p in zip(cases, holm(closed), strict=True) if p <= LEVEL]
    if not lost:
        cases = [replace(case, p=math.nan if math.isnan(case.p) else 1.0, ruled_out=False) for case in cases]
    missing = sorted({"more steps", "few-shot fine-tuning"} - ways)
    against = f"But {listed(missing)} was not tried: {_TRY[missing[0]]}." if missing else ""
    basis = f"single networks, each component in each design; {listed(sorted(ways))}"
    return _decide("C3", lost or cases, about="remaining gap", basis=basis, against=against)


_TRY = {"more steps": "vary `steps`", "few-shot fine-tuning": "give `finetune` some `shots`"}


def _few_shot(found: Ladder) -> Estimate | None:
    return next(rung.shortfall for rung in found.rungs if rung.name == "few-shot fine-tuning")


def _c4a(single: pd.DataFrame) -> Claim:
    """C4, weights: at the same number of examples a component's gap depends on its weight.

    Family: components with several weights. p: of an F test within seeds that all weights have the same gap. Effect:
    the gap at the smallest weight minus the one at the largest, whichever sign it has. Ruled out: every weight's gap is
    within MARGIN of their mean.
    """
    cases = _levels(single, "weight", [name for name in DESIGN if name not in ("mixture", "representation")])
    if not cases:
        return _not_tested("C4a", "vary `mixture`, so that a component has several weights")
    basis = "single networks that differ in the mixture only, paired within seeds"
    return _decide("C4a", cases, about="difference of gaps", basis=basis)


def _c4b(single: pd.DataFrame) -> Claim:
    """C4, ordering: on the same examples a component's gap depends on their order.

    As for weights; the effect is of the worst ordering minus the best, which are chosen by their gaps, so that its
    interval describes and the F test decides. The interaction says whether components mind different orderings.
    """
    rest = [name for name in DESIGN if name not in ("ordering", "representation")]
    cases = _levels(single, "ordering", rest)
    if not cases:
        return _not_tested("C4b", "vary `ordering` of the same mixture")
    basis = "single networks that differ in the ordering only, paired within seeds"
    p = _interaction(single, rest)
    remark = "" if p is None else f"Interaction of component and ordering: p = {p:.2g}."
    return _decide("C4b", cases, about="difference of gaps", basis=basis, remark=remark)


def _levels(single: pd.DataFrame, axis: str, rest: Sequence[str]) -> list[_Case]:
    """By component, whether its gap depends on the level of an axis."""
    found = nested(by_seed(single, ["component", *rest, axis], "gap"), inner=len(rest) + 1)
    cases = []
    for (component,), of_design in found.items():
        _, names, cube = crossed(nested(of_design))
        if len(names) < 2 or len(cube) < 1:
            continue
        if axis == "weight":
            order = np.argsort([name[0] for name in names])
            worst, best = int(order[0]), int(order[-1])
        else:
            worst, best = int(cube.mean(axis=0).argmax()), int(cube.mean(axis=0).argmin())
        difference = cube[:, worst] - cube[:, best]
        effect = estimate(difference)
        offsets = cube - cube.mean(axis=1, keepdims=True)
        enough = len(cube) >= MIN_SEEDS
        same = enough and all(_within(estimate(column), MARGIN) for column in offsets.T)
        between = " and ".join(f"{axis} {level(axis, names[at][0])}" for at in (worst, best))
        p = omnibus(offsets, len(names) - 1) if enough else math.nan
        cases.append(_Case(f"`{component}`", effect, p, same, f"It is between {between}, of {len(names)}."))
    return cases


def _interaction(single: pd.DataFrame, rest: Sequence[str]) -> float | None:
    """The p-value that all components mind the orderings alike; None where it cannot be asked."""
    found = nested(by_seed(single, [*rest, "ordering", "component"], "gap"), inner=2)
    wholes: dict[Key, list[Floats]] = {}  # designs that have the same orderings, components and seeds
    for cells in found.values():
        orderings, components = (tuple(dict.fromkeys(key[at] for key in cells)) for at in (0, 1))
        seeds = shared_seeds(*cells.values())
        if min(len(orderings), len(components)) > 1 and len(cells) == len(orderings) * len(components):
            flat = matrix([cells[ordering, component] for ordering in orderings for component in components])
            cube = flat.reshape(len(flat), len(orderings), len(components))
            wholes.setdefault((orderings, components, *seeds), []).append(cube)
    alike = max(wholes.values(), key=len, default=[])
    if not alike or len(alike[0]) < MIN_SEEDS:
        return None
    cube = np.mean(alike, axis=0)  # (S, L, K)
    centred = cube - cube.mean(axis=1, keepdims=True) - cube.mean(axis=2, keepdims=True)
    centred += cube.mean(axis=(1, 2), keepdims=True)
    return omnibus(centred.reshape(len(cube), -1), (cube.shape[1] - 1) * (cube.shape[2] - 1))


def _within(found: Estimate, margin: float) -> bool:
    """Whether a mean as far from 0 as the margin is ruled out on either side."""
    if found.low is None or found.high is None:
        return False
    mirrored = Estimate(-found.mean, -found.high, -found.low, found.n)
    return max(_upper(found), _upper(mirrored)) < margin


def _c5a(single: pd.DataFrame) -> Claim:
    """C5, architectures: every architecture loses something.

    Family: architectures, all of which must lose, so that p is the largest of theirs. An architecture loses if one of
    its components has a gap above 0 after Holm over components; gaps are averaged within seeds over designs. Effect:
    the smallest over architectures of the largest gap. Contradicted if in one architecture a gap that matters is ruled
    out for every component.
    """
    found = nested(by_seed(single, ["architecture", "component", "sweep", "trial"], "gap"), inner=2)
    of_architecture: dict[str, list[_Case]] = {}
    for (architecture, component), of_design in found.items():
        case = _case(f"`{component}` in `{architecture}`", balanced(of_design.values())[0].values())
        of_architecture.setdefault(architecture, []).append(case)
    if len(of_architecture) < 2:
        return _not_tested("C5a", "vary `architecture`")
    worst = []
    for cases in of_architecture.values():
        found_p = list(zip(cases, _adjusted(cases), strict=True))
        matter = [pair for pair in found_p if not pair[0].ruled_out] or found_p
        case, p = min(matter, key=lambda pair: (_rank(pair[1]), -pair[0].effect.mean))
        worst.append(replace(case, p=p))
    excused = [case for case in worst if case.ruled_out]
    weakest = max(excused or worst, key=lambda case: (_rank(case.p), -case.effect.mean))
    basis = f"single networks of {listed(sorted(of_architecture))}, gaps averaged over designs within seeds"
    remark = "It is the smallest loss of all architectures."
    return _decide("C5a", [weakest], about="gap", basis=basis, remark=remark)


def _c5b(single: pd.DataFrame) -> Claim:
    """C5, scale: gaps end at a floor above 0 as width, depth, steps or examples grow.

    Family: components and scales, of at least `fits.MIN_SCALES` values. A case supports the claim if the interval of
    the floor c in gap = a N^-b + c lies above 0, or if the gap does not follow such a law because it hardly falls: at
    the largest scale it is above 0 and the interval of how much is gone ends below half of it. Intervals are not
    adjusted; instead it takes more such cases than 2.5 % each would produce in 5 % of tables, and p is how often that
    many would come. Contradicted if every law's floor is below MARGIN. Effect: the largest floor, or remaining gap.
    """
    cases, refused, looked_at = [], [], 0
    for axis in SCALES:
        rest = [name for name in DESIGN if name not in (axis, "representation")]
        scaled = single[single[axis].notna()]
        found = nested(by_seed(scaled, ["component", *rest, axis], "gap"), inner=len(rest) + 1)
        for (component,), of_design in found.items():
            _, names, cube = crossed(nested(of_design))
            if len(names) < fits.MIN_SCALES:
                continue
            looked_at += 1
            order = np.argsort([name[0] for name in names])
            sizes = np.array([names[at][0] for at in order], dtype=float)
            case = _floor(f"`{component}` over {axis}", sizes, cube[:, order])
            refused += [case] if isinstance(case, str) else []
            cases += [] if isinstance(case, str) else [case]
    if not looked_at:
        return _not_tested("C5b", f"vary `width`, `depth`, `steps` or `train_examples` over {fits.MIN_SCALES} values")
    basis = f"single networks over {looked_at} scales of at least {fits.MIN_SCALES} values"
    if not cases:
        why = f"No law could be fitted: {refused[0]}."
        return _claim("C5b", "inconclusive", sentence=why, basis=basis)
    floors = sum(case.p <= LEVEL for case in cases)
    by_chance = float(bdtrc(floors - 1, looked_at, LEVEL / 2)) if floors else 1.0
    small = all(case.ruled_out for case in cases) and not refused
    counted = [replace(c, p=by_chance if c.p <= LEVEL else 1.0, ruled_out=small) for c in cases]
    best = max(counted, key=lambda case: (-case.p, case.effect.mean))
    remark = f"{floors} of {looked_at} have a floor." + (f" No law for {len(refused)}." if refused else "")
    return _decide("C5b", counted if small else [best], about="floor", basis=basis, remark=remark)


def _floor(name: str, sizes: Floats, gaps: Floats) -> _Case | str:
    """A case, or why there is none. Its p is LEVEL or 1: whether the interval lies above 0."""
    found = fits.floor_fit(sizes, gaps)
    if isinstance(found, fits.FloorFit):
        c = Estimate(found.c.value, found.c.low, found.c.high, found.n)
        small = c.high is not None and c.high < MARGIN
        return _Case(name, c, LEVEL if found.has_floor and not small else 1.0, small)
    if len(gaps) < MIN_SEEDS:
        return f"{name}: {found.reason}"
    left, gone = estimate(gaps[:, -1]), estimate(gaps[:, 0] - gaps[:, -1])
    assert gone.high is not None
    if left.positive and gone.high < left.mean / 2:
        return _Case(name, left, LEVEL, False, f"No law is fitted ({found.reason}); this gap is left at the largest.")
    return f"{name}: {found.reason}"


def _c6(single: pd.DataFrame) -> Claim:
    """C6: against the smallest weight decay the largest costs transfer and effective rank, and not the source.

    Family: components that the mixtures do not show, or all where there are none. All three are needed: transfer
    accuracy falls, effective rank falls, and the source (accuracy of the mixture's own head on what it shows, by
    weight; without a head that of its probes) does not fall by SOURCE_MARGIN. Effect: the loss of transfer accuracy.
    Contradicted where the source holds but a loss of transfer that matters is ruled out, or the rank rises.
    """
    written = [_weight_decay(training) for training in single["training"]]
    labelled = single.assign(
        weight_decay=pd.array([decay for decay, _ in written], dtype="Float64"), others=[rest for _, rest in written]
    )
    known = labelled[labelled["weight_decay"].notna()]
    if known["weight_decay"].nunique() < 2:
        return _not_tested("C6", "write `weight_decay` into two or more entries of `vary.training`")
    least, most = known["weight_decay"].min(), known["weight_decay"].max()
    rest = [*(name for name in DESIGN if name not in ("training", "representation")), "others"]
    source = _contrast(_source(known, [*rest, "weight_decay"]), (most,), (least,))
    targets = _targets(known)
    by = ["component", *rest, "weight_decay"]
    losses, ranks = (
        {
            component: _contrast(of_design, (least,), (most,))
            for component, of_design in nested(by_seed(targets, by, name), inner=len(rest) + 1).items()
        }
        for name in ("transfer_accuracy", "effective_rank")
    )
    if not source or not any(ranks.values()):
        return _not_tested("C6", "measure retention, for the effective rank, with several values of `weight_decay`")
    cases = []
    for component, lost in losses.items():
        narrower = ranks.get(component, {})
        if not lost or not narrower:
            continue
        held, rank = estimate(source.values()), estimate(narrower.values())
        case = _case(f"`{component[0]}`", lost.values(), also=[_p_above(held, -SOURCE_MARGIN), _p_above(rank)])
        holds = _p_above(held, -SOURCE_MARGIN) <= LEVEL
        refuted = holds and (case.ruled_out or (rank.high is not None and rank.high < 0))
        remark = f"The source changes by {_shown(held, 'points')}, the effective rank by {-rank.mean:.1f}."
        cases.append(replace(case, ruled_out=refuted and case.effect.n >= MIN_SEEDS, remark=remark))
    basis = f"single networks, weight decay {least:g} and {most:g}, paired within seeds"
    return _decide("C6", cases, about="loss of transfer accuracy", basis=basis)


def _weight_decay(training: Any) -> tuple[float | None, str]:
    """The weight decay that a training writes out, and what else it changes."""
    parts = [] if pd.isna(training) else str(training).split(", ")
    decays = [part for part in parts if part.startswith("weight_decay ")]
    others = ", ".join(part for part in parts if part not in decays)
    return (float(decays[0].split()[1]) if decays else None), others


def _targets(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of components that the mixture does not show, or all rows where there are none."""
    unseen = rows[(rows["weight"] == 0).fillna(False).astype(bool)]
    return unseen if len(unseen) else rows


def _source(rows: pd.DataFrame, by: Sequence[str]) -> dict[Key, BySeed]:
    """By group, the accuracy on what the mixture shows, weighted as the mixture is: of its head, or of its probes."""
    seen = rows[(rows["weight"] > 0).fillna(False).astype(bool)]
    column = "head_accuracy" if seen["head_accuracy"].notna().all() else "transfer_accuracy"
    known = seen[seen[column].notna()]
    weighted = known.assign(part=known["weight"] * known[column])
    parts, shares = (nested(by_seed(weighted, [*by, "component"], name)) for name in ("part", "weight"))
    found = {}
    for key, of_component in parts.items():
        added, whole = (matrix(list(of.values())).sum(axis=1) for of in (of_component, shares[key]))
        seeds = shared_seeds(*of_component.values())
        found[key] = {s: float(a) for s, a, w in zip(seeds, added, whole, strict=True) if abs(w - 1) < 1e-6}
    return found


def _contrast(found: Mapping[Key, BySeed], first: Key, second: Key) -> BySeed:
    """First level minus second within seeds, averaged over the designs that have both."""
    pairs = (
        paired(levels[first], levels[second]) for levels in nested(found).values() if {first, second} <= set(levels)
    )
    return balanced(pair for pair in pairs if pair)[0]


def _c7(asked: pd.DataFrame) -> Claim:
    """C7: networks side by side serve the targets better than one network, and the source no worse.

    Family: `cat` and `time_cat`, each with the most networks, and components that the mixtures do not show, or all
    where there are none. A case supports the claim if the transfer accuracy gains on `single` of the same design, and
    the source (probe accuracy on what the mixture shows, by weight) does not fall by SOURCE_MARGIN. Effect: the gain.
    Contradicted if a gain that matters is ruled out.
    """
    kinds = {kind: most for kind in ("cat", "time_cat") if (most := _largest(asked, kind))}
    if not kinds:
        return _not_tested("C7", "add `cat` or `time_cat` to `vary.representation`, beside `single`")
    rest = [name for name in DESIGN if name != "representation"]
    headless = asked.assign(head_accuracy=pd.array([None] * len(asked), dtype="Float64"))
    source = _source(headless, [*rest, "representation"])
    by = ["component", *rest, "representation"]
    transfer = nested(by_seed(_targets(asked), by, "transfer_accuracy"), inner=len(rest) + 1)
    cases = []
    for most in kinds.values():
        change = _contrast(source, (most,), ("single",))
        held = estimate(change.values()) if change else None
        for (component,), of_design in transfer.items():
            gain = _contrast(of_design, (most,), ("single",))
            if not gain:
                continue
            also = [_p_above(held, -SOURCE_MARGIN)] if held else [1.0]
            case = _case(f"`{most}` for `{component}`", gain.values(), also=also)
            remark = f"The source changes by {_shown(held, 'points')}." if held else "The source was not measured."
            controls = [_control(of_design, name) for name in _controls(asked)]
            remark = " ".join([remark, *(control for control in controls if control)])
            cases.append(replace(case, remark=remark))
    if not cases:
        return _not_tested("C7", "add `single` to `vary.representation`")
    basis = f"{listed(list(kinds.values()))} against single of the same design, paired within seeds"
    return _decide("C7", cases, about="gain of transfer accuracy", basis=basis)


def _largest(rows: pd.DataFrame, kind: str) -> str | None:
    """The representation of a kind with the most networks."""
    found = {str(name) for name in rows["representation"].dropna() if str(name).startswith(f"{kind}:")}
    return max(found, key=lambda name: int(name.partition(":")[2]), default=None)


def _controls(rows: pd.DataFrame) -> list[str]:
    return [name for kind in ("wide", "cat_pca") if (name := _largest(rows, kind))]


def _control(of_design: Mapping[Key, BySeed], name: str) -> str:
    gain = _contrast(of_design, (name,), ("single",))
    return f"The control `{name}` gains {_shown(estimate(gain.values()), 'points')}." if gain else ""


def _c8(asked: pd.DataFrame) -> Claim:
    """C8: networks of the mixture that differ in the seed alone agree less than direct ones do.

    Family: for every component, what direct networks predict of each other minus what the members of `cat` do, in R2;
    without it, by how much the deviation of transfer accuracy over seeds is larger than that of direct training
    (Pitman and Morgan's test, which is paired by seed). Contradicted if a difference of R2_MARGIN is ruled out, or
    the deviation is below MARGIN with 95 %.
    """
    most = _largest(asked, "cat")  # the members of time_cat are shorter runs than the direct ones
    members = asked[asked["representation"] == most] if most else asked.iloc[:0]
    less = members.assign(less=members["predictability_ceiling"] - members["member_predictability"])
    found = nested(by_seed(less, ["component", "sweep", "trial"], "less"), inner=2)
    spread = _spread(asked[asked["representation"] == "single"])
    if found:
        cases = [
            _case(f"`{component}`", balanced(of_design.values())[0].values(), margin=R2_MARGIN)
            for (component,), of_design in found.items()
        ]
        wide = max(spread, key=lambda case: case.effect.mean, default=None)
        remark = f"Transfer to {wide.name} deviates by {100 * wide.effect.mean:.1f} points over seeds." if wide else ""
        basis = f"members of {listed(sorted(set(members['representation'])))} against direct networks of two seeds"
        return _decide("C8", cases, about="loss of agreement", unit="R2", basis=basis, remark=remark)
    if not spread:
        return _not_tested("C8", f"measure retention of `cat`, or run {MIN_SEEDS} seeds or more")
    basis = "single networks, deviation over seeds against that of direct training"
    return _decide("C8", spread, about="deviation over seeds", basis=basis)


def _spread(single: pd.DataFrame) -> list[_Case]:
    """By component, how far apart the seeds are."""
    by = ["component", "sweep", "trial"]
    transfer, direct = (
        nested(by_seed(single, by, name), inner=2) for name in ("transfer_accuracy", "direct_probe_accuracy")
    )
    cases = []
    for component, of_design in transfer.items():
        reached, possible = (balanced(found.values())[0] for found in (of_design, direct.get(component, {})))
        found = deviation(reached.values())
        if found is None:
            continue
        pairs = matrix([reached, possible])
        p = _wider(pairs) if len(pairs) > MIN_SEEDS else math.nan
        ruled_out = found.n >= MIN_SEEDS and found.high is not None and found.high < MARGIN
        remark = f"That of direct training is {100 * pairs[:, 1].std(ddof=1):.1f}." if len(pairs) > 1 else ""
        cases.append(_Case(f"`{component[0]}`", found, p, ruled_out, remark))
    return cases


def _wider(pairs: Floats) -> float:
    """The two-sided p-value that two columns of (S, 2) vary alike; 1 where the first varies less.

    Source: Pitman (1939), Morgan (1939): their variances are equal if sum and difference are uncorrelated.
    """
    total, difference = pairs.sum(axis=1), pairs[:, 0] - pairs[:, 1]
    scale = float(total.std() * difference.std())
    if scale <= 1e-15:
        return 1.0
    r = float(np.mean((total - total.mean()) * (difference - difference.mean()))) / scale
    if r <= 0:
        return 1.0
    freedom = len(pairs) - 2
    return float(2 * stdtr(freedom, -r * math.sqrt(freedom / max(1e-15, 1 - r**2))))


def rows(found: Sequence[Claim]) -> list[tuple[str, ...]]:
    """The claims as text for a terminal, the header first."""
    header = ("claim", "verdict", "effect", "95 % interval", "n", "p", "decided by")
    lines = []
    for claim in found:
        digits = 1 if claim.unit == "points" else 2
        effect = "-" if claim.effect is None else f"{claim.effect:.{digits}f} {claim.unit}"
        known = claim.low is not None and claim.high is not None
        ends = f"[{claim.low:.{digits}f}, {claim.high:.{digits}f}]" if known else "-"
        count, p = (str(claim.n) if claim.n else "-"), ("-" if claim.p is None else f"{claim.p:.2g}")
        lines.append((claim.id, claim.verdict, effect, ends, count, p, claim.sweep))
    return [header, *lines]
