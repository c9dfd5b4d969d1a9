"""What does all of the analysis say about one table? Sections of text: indices, closures, fits, times, tests.

Every section asks functions of `measures`, `fits`, `trajectories` and `statistics` and writes down what they answer,
a refusal included. What a table cannot carry is left out. Gaps per component and weight are the business of `gaps`,
verdicts that of `ladder` and `claims`. Gaps are in points here, and every row says how many seeds it rests on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from orchestrator.analysis import fits, measures, statistics, trajectories
from orchestrator.analysis.gaps import Estimate, estimate, interval, level, points, primary
from orchestrator.analysis.measures import BySeed, Key, by_seed, keys, matrix, nested, usable, varied

Row: TypeAlias = Mapping[Any, Any]  # of the results table
Bools: TypeAlias = npt.NDArray[np.bool_]
Correct: TypeAlias = Callable[[Row], tuple[Bools, Bools] | None]
Line: TypeAlias = tuple[str, ...]

SCALES = ("width", "depth", "steps", "train_examples")
UPSTREAM = ("architecture", *SCALES, "training")  # what makes one upstream error differ from another
LARGE_GRID = 20  # rows; beyond them false discoveries are counted, and not the chance of any
DRAWS = 2000  # of an interquartile mean's interval


@dataclass(frozen=True)
class Section:
    """A table of text, and what must be known to read it."""

    title: str
    header: Line
    rows: tuple[Line, ...]
    remark: str = ""


def summary(table: pd.DataFrame, correct: Correct | None = None, curves: pd.DataFrame | None = None) -> list[Section]:
    """Everything that the analysis can say about a table, in sections; those that do not apply are left out.

    Args:
        table: a results table (`results.COLUMNS`), of one sweep or of several.
        correct: of a row, whether direct training and transfer were right about each test example, (N,) each, in the
            same order; or None where that is not known.
        curves: the curves of trajectories, as `results.trajectories` gives them.
    """
    if not table["gap"].notna().any():
        return []
    found = [
        indices(table),
        closures(table),
        bias_variance(table),
        target_sizes(table),
        crossings(table),
        fitted(table),
        thresholds(table),
        *([forgotten(curves)] if curves is not None and len(curves) else []),
        tests(table),
        interquartile_means(table),
        *([examples(table, correct)] if correct else []),
    ]
    return [section for section in found if section.rows]


# What `measures` finds


def indices(table: pd.DataFrame) -> Section:
    """The four bottleneck indices of every design, and the geometric mean of its error ratios."""
    axes = varied(table)
    ratios = {row["trial"]: row for row in measures.error_ratio(table).to_dict("records")}
    rows = []
    for row in measures.indices(table).to_dict("records"):
        ratio = ratios.get(row["trial"], {})
        rows.append(
            (
                *_cells(row, axes or ["trial"]),
                *(_points(row, name) for name in ("mean", "weighted", "worst")),
                _text(row.get("worst_component")),
                points(row.get("losing")),
                _number(ratio.get("ratio"), ratio.get("ratio_low"), ratio.get("ratio_high")),
                str(row["n"]),
                _counted(row, incomplete="seeds incomplete", missing="components missing", invalid="rows invalid"),
            )
        )
    numbers = ("mean gap", "weighted gap", "worst gap", "worst component", "losing, %", "error ratio", "n", "left out")
    remark = (
        "Gaps in points with 95 % intervals over seeds. Losing: share of components whose own interval lies above 0. "
        "Error ratio: geometric mean over components; above 1: worse than direct training."
    )
    return _section("Bottleneck indices", (*(axes or ["trial"]), *numbers), rows, remark)


def closures(table: pd.DataFrame) -> Section:
    """The share of the gap of single networks that each other representation closes."""
    by = [name for name in varied(table) if name != "representation"]
    by = [*by, "component", "weight", *_readings(table), "representation"]
    rows = [
        (
            *_cells(row, by),
            _number(row["closure"], row["low"], row["high"]),
            _points(row, "gap"),
            str(row["n"]),
            _text(row["reason"], ""),
        )
        for row in measures.gap_closure(table).to_dict("records")
    ]
    remark = "1: as good as direct training; 0: as the single network. Intervals are Fieller's, over seeds."
    return _section("Gap closure", (*by, "closure", "gap of single", "n", "why none"), rows, remark)


def bias_variance(table: pd.DataFrame) -> Section:
    """The mean gap, and how far apart the seeds lie."""
    by = [*varied(table), "component", "weight"]
    rows = [
        (
            *_cells(row, by),
            _points(row, "bias"),
            _points(row, "deviation"),
            points(row["direct_deviation"]),
            str(row["n"]),
            str(row["invalid"]),
        )
        for row in measures.bias_variance(table).to_dict("records")
    ]
    remark = "In points: bias is the mean gap, deviation that of the accuracy over seeds, of transfer and of direct."
    header = (*by, "bias", "deviation", "direct deviation", "n", "invalid")
    return _section("Bias and variance over seeds", header, rows, remark)


def target_sizes(table: pd.DataFrame) -> Section:
    """The gap against the number of examples of the target, where that was varied."""
    curve = [*varied(table), "component", "weight", "protocol"]
    good = usable(table)
    transfer, direct, sizes = (
        nested(by_seed(good, [*curve, "shots"], name))
        for name in ("transfer_accuracy", "direct_probe_accuracy", "num_train")
    )
    found = measures.by_target_size(table)
    by = [*varied(table), "component", "weight", "protocol", "shots"]
    rows = []
    for key, row in zip(keys(found, curve), found.to_dict("records"), strict=True):
        if len(transfer[key]) < 2:
            continue
        shots = (None if pd.isna(row["shots"]) else int(row["shots"]),)
        equal = _data_equivalent(sizes.get(key, {}), direct.get(key, {}), transfer[key].get(shots, {}))
        examples = "-" if pd.isna(row["examples"]) else f"{row['examples']:,.0f}"
        gap_and_change = (_points(row, "gap"), _points(row, "change"))
        rows.append((*_cells(row, by), examples, *gap_and_change, equal, str(row["n"])))
    remark = (
        "Change: this gap minus the one with most examples, paired by seed. Data-equivalent: examples with which "
        "direct training is as good as transfer at this size."
    )
    header = (*by, "examples", "gap, points", "change", "data-equivalent", "n")
    return _section("Gap by target size", header, rows, remark)


def _data_equivalent(sizes: Mapping[Key, BySeed], direct: Mapping[Key, BySeed], transfer: BySeed) -> str:
    """How many examples direct training needs, from one number of examples and one accuracy for each of the shots."""
    by_size = {_mean(sizes[shots]): _mean(direct[shots]) for shots in direct if shots in sizes}
    if not by_size or not transfer:
        return "-"
    found = fits.data_equivalent(list(by_size), list(by_size.values()), _mean(transfer))
    if isinstance(found, fits.Refused):
        return found.reason
    return {"below": "at most ", "above": "more than ", "": ""}[found.censored] + f"{found.examples:,.0f}"


def crossings(table: pd.DataFrame) -> Section:
    """From how many examples on direct training is better than transfer."""
    by = [*varied(table), "component", "weight", "protocol"]
    seeds = by_seed(usable(table), by, "gap")
    found = measures.crossing(table)
    rows = [
        (*_cells(row, by), _range(row["crossing"], row["low"], row["high"]), str(row["sizes"]), row["outcome"], n)
        for row, n in zip(found.to_dict("records"), (str(len(seeds[key])) for key in keys(found, by)), strict=True)
    ]
    header = (*by, "examples", "sizes", "outcome", "n")
    return _section("Crossing of transfer and direct training", header, rows)


# Fits


def fitted(table: pd.DataFrame) -> Section:
    """Every law that the axes of the table make applicable, or why it is refused."""
    asked = primary(table)
    good = usable(asked)
    single = good[(good["representation"] == "single").fillna(False)]
    rest = [name for name in varied(table) if name != "representation"]
    rows = [
        *(line for axis in SCALES for line in _floors(single, axis, rest)),
        *_half_gaps(single, rest),
        *_mixing_laws(single, rest),
        *_ensembles(good, rest),
        *_transfers(single, rest),
        *_orderings(asked[(asked["representation"] == "single").fillna(False)], rest),
    ]
    remark = "To means over seeds, with 95 % intervals from resampled seeds; gaps in points. n: seeds, or runs."
    return _section("Fits", ("law", "of", "found", "n"), rows, remark)


def _floors(single: pd.DataFrame, axis: str, rest: Sequence[str]) -> Iterator[Line]:
    by = ["component", "weight", *(name for name in rest if name != axis)]
    for key, scales in _curves(single[single[axis].notna()], [*by, axis], "gap"):
        found = fits.floor_fit([at for (at,) in scales], 100 * matrix(list(scales.values())))
        law = f"floor over {axis.replace('_', ' ')}"
        if isinstance(found, fits.Refused):
            yield law, _place(by, key), found.reason, _shared(scales)
            continue
        says = "the floor is above 0" if found.has_floor else "no floor is distinguishable from 0"
        yield (
            law,
            _place(by, key),
            f"{says}: c {_parameter(found.c)}, b {_parameter(found.b)}; with a floor, AIC is lower by "
            f"{found.aic_difference:.1f}, BIC by {found.bic_difference:.1f}",
            str(found.n),
        )


def _half_gaps(single: pd.DataFrame, rest: Sequence[str]) -> Iterator[Line]:
    by = ["component", *(name for name in rest if name != "mixture")]
    for key, weights in _curves(single[single["weight"].notna()], [*by, "weight"], "gap"):
        found = fits.half_gap([at for (at,) in weights], matrix(list(weights.values())))
        if isinstance(found, fits.Refused):
            yield "weight of half the gap", _place(by, key), found.reason, _shared(weights)
        else:
            text = f"halved at weight {_parameter(found.weight)}"
            yield "weight of half the gap", _place(by, key), text, str(found.n)


def _mixing_laws(single: pd.DataFrame, rest: Sequence[str]) -> Iterator[Line]:
    by = ["component", *(name for name in rest if name != "mixture")]
    shares: dict[str, dict[str, float]] = {}
    for mixture, component, weight in keys(single, ["mixture", "component", "weight"]):
        if weight:
            shares.setdefault(mixture, {})[component] = weight
    for key, of_mixture in _curves(single, [*by, "mixture"], "transfer_loss"):
        mixtures = [mixture for (mixture,) in of_mixture if mixture in shares]
        names = list(dict.fromkeys(name for mixture in mixtures for name in shares[mixture]))
        if len(names) < 2:
            continue
        weights = [[shares[mixture].get(name, 0.0) for name in names] for mixture in mixtures]
        losses = matrix([of_mixture[mixture,] for mixture in mixtures])
        found = fits.mixing_law(weights, losses) if len(losses) else fits.Refused("no seed has all mixtures")
        if isinstance(found, fits.Refused):
            yield "mixing law of the loss", _place(by, key), found.reason, str(len(losses))
            continue
        slopes = ", ".join(f"t of `{name}` {_parameter(t)}" for name, t in zip(names, found.t, strict=True))
        text = f"c {_parameter(found.c)}, k {_parameter(found.k)}, {slopes}; R2 on mixtures left out {found.r2:.2f}"
        yield "mixing law of the loss", _place(by, key), text, str(found.n)


def _ensembles(good: pd.DataFrame, rest: Sequence[str]) -> Iterator[Line]:
    by = ["component", "weight", *rest]
    direct = by_seed(good, by, "direct_probe_accuracy")
    for key, kinds in _curves(good, [*by, "representation"], "transfer_accuracy"):
        found = {_members(kind): accuracy for (kind,), accuracy in kinds.items() if _members(kind)}
        if len(found) < 2 or key not in direct:
            continue
        both = matrix([*found.values(), direct[key]])
        fit = fits.cat_fit(list(found), both[:, :-1], both[:, -1])
        if isinstance(fit, fits.Refused):
            yield "accuracy over members", _place(by, key), fit.reason, str(len(both))
            continue
        gap, limit = (_parameter(found, 100) for found in (fit.remaining_gap, fit.limit))
        text = f"{fit.verdict}: with ever more networks {gap} points remain, at an accuracy of {limit} %"
        yield "accuracy over members", _place(by, key), text, str(fit.n)


def _members(kind: str) -> int:
    """Of `single` and `cat:n`; 0 for another representation."""
    found = re.fullmatch(r"cat:(\d+)", kind)
    return int(found[1]) if found else int(kind == "single")


def _transfers(single: pd.DataFrame, rest: Sequence[str]) -> Iterator[Line]:
    """The error of what the mixtures do not show, or of everything, against that of what they do show."""
    runs = [name for name in UPSTREAM if name in rest]
    if not runs:
        return
    fixed = [name for name in rest if name not in runs]
    shown = measures.source_accuracy(single, [*fixed, *runs])
    upstream = {design: 1 - _mean(seeds) for design, seeds in shown.items()}
    targets = single[single["weight"].eq(0).fillna(False)]
    by = ["component", *fixed]
    curves = nested(by_seed(targets if len(targets) else single, [*by, *runs], "transfer_accuracy"), inner=len(runs))
    for key, accuracies in curves.items():
        pairs = [
            (upstream[*key[1:], *run], 1 - _mean(seeds))
            for run, seeds in accuracies.items()
            if (*key[1:], *run) in upstream
        ]
        if len(pairs) < 2:
            continue
        before, after = zip(*pairs, strict=True)
        perfect = min(before) <= 0
        found = fits.Refused("an upstream error is 0") if perfect else fits.transfer_fit(before, after)
        text = (
            found.reason
            if isinstance(found, fits.Refused)
            else f"{_parameter(found.irreducible, 100)} points of error remain of a perfect upstream model, "
            f"alpha {_parameter(found.alpha)}"
        )
        yield "transfer error over upstream error", _place(by, key), text, str(len(pairs))


def _orderings(single: pd.DataFrame, rest: Sequence[str]) -> Iterator[Line]:
    if "ordering" not in rest:
        return
    fixed = [name for name in rest if name != "ordering"]
    groups: dict[Key, list[int]] = {}
    for position, key in enumerate(keys(single, fixed)):
        groups.setdefault(key, []).append(position)
    valid = single.assign(transfer_accuracy=single["transfer_accuracy"].mask(~single.index.isin(usable(single).index)))
    for key, at in groups.items():
        rows = valid.iloc[at]
        if rows["ordering"].nunique() < 2:
            continue
        found = fits.ordering_effects(rows)
        if isinstance(found, fits.Refused):
            yield "ordering", _place(fixed, key), found.reason, str(rows["seed"].nunique())
            continue
        beside = {(one.ordering, one.component): one.difference for one in found.interactions}
        for one in (*found.overall, *found.effects):
            of = _place(["component", *fixed], (one.component or "all", *key))
            text = f"{one.ordering}: {_measured(one.difference)} of accuracy against {fits.BASELINE}"
            if extra := beside.get((one.ordering, one.component)):
                text += f", {_measured(extra)} more than the others"
            yield "ordering", of, text, str(found.n)


def _curves(rows: pd.DataFrame, by: Sequence[str], column: str) -> Iterator[tuple[Key, dict[Key, BySeed]]]:
    """For every group of all but the last of `by`, what it has at two values or more of the last."""
    for key, found in nested(by_seed(rows, by, column)).items():
        if len(found) > 1:
            yield key, found


def _shared(groups: Mapping[Key, BySeed]) -> str:
    return str(len(measures.shared_seeds(*groups.values())))


# Trajectories


def thresholds(table: pd.DataFrame) -> Section:
    """After how many steps half of what direct training adds has been learnt: medians over seeds."""
    asked = usable(primary(table))
    asked = asked[asked["peak_step"].notna()]
    by = [*varied(table), "component", "weight"]
    steps: dict[Key, list[float | None]] = {}
    for key, step in zip(keys(asked, by), asked["threshold_step"], strict=True):
        steps.setdefault(key, []).append(None if pd.isna(step) else float(step))
    rows = []
    for key, found in steps.items():
        waited = trajectories.time_to_threshold(found)
        median, low, high = ("never" if at is None else f"{at:,.0f}" for at in (waited.median, waited.low, waited.high))
        spread = (f"[{low}, {high}]", points(waited.coverage)) if waited.n > 1 else ("-", "-")
        rows.append((*_key_cells(key, by), median, *spread, str(waited.censored), str(waited.n)))
    remark = (
        "The interval holds the median with the stated chance; `never` is beyond the end of the run. Never as well "
        "where direct training adds less than a point."
    )
    header = (*by, "median step", "interval", "chance, %", "never reached it", "n")
    return _section("Time to threshold", header, rows, remark)


def forgotten(curves: pd.DataFrame) -> Section:
    """What the later phases of a sequential ordering did to the components of the earlier ones."""
    single = curves[(curves["representation"] == "single") & curves["ordering"].str.startswith("sequential:")]
    fixed = ["architecture", "width", "depth", "mixture", "training", "ordering"]
    named = [name for name in fixed if curves[name].nunique(dropna=False) > 1 or name == "ordering"]
    found: dict[Key, list[trajectories.Forgetting]] = {}
    for _, run in single.groupby(["trial", "seed"], sort=False):
        key = keys(run.head(1), named)[0]
        if phases := _phases(run):
            names, accuracies, start = phases
            trained = list(range(len(names)))
            found.setdefault(key, []).append(trajectories.forgetting(accuracies, trained=trained, random_init=start))
    rows = []
    for key, runs in found.items():
        numbers = ([getattr(one, name) for one in runs] for name in ("mean", "backward_transfer", "forward_transfer"))
        cells = (_measured(estimate(values), unit="") for values in numbers)
        rows.append((*_key_cells(key, named), *cells, str(len(runs))))
    remark = (
        "In points of probe accuracy at the last checkpoint of each phase. Forgetting: the best before the last phase "
        "minus the end; backward transfer: the end minus right after the component's own phase; forward transfer: "
        "right before it minus the initialisation."
    )
    header = (*named, "forgetting", "backward transfer", "forward transfer", "n")
    return _section("Forgetting over phases", header, rows, remark)


def _phases(run: pd.DataFrame) -> tuple[list[str], list[list[float]], list[float]] | None:
    """The components in their order, (T, K) accuracies at the last checkpoint of each phase, (K,) those at step 0.

    None unless every phase has a checkpoint of its own and every component a number there.
    """
    order = run["ordering"].iloc[0].removeprefix("sequential:").split(",")
    shares = dict(zip(run["component"], run["weight"], strict=True))
    names = [name for name in order if shares.get(name)]
    curve = run.pivot_table(index="step", columns="component", values="accuracy").sort_index()
    if len(names) < 2 or not set(names) <= set(curve):
        return None
    total = sum(shares[name] for name in names)
    ends = np.cumsum([0.0, *(shares[name] / total for name in names)]) * curve.index.max()
    steps = curve.index.to_numpy()
    last = [steps[(steps > low + 1e-9) & (steps <= high + 1e-9)] for low, high in pairwise(ends)]
    if not all(map(len, last)) or steps[0] != 0:
        return None
    accuracies = curve.loc[[0, *(at[-1] for at in last)], names].to_numpy(dtype=float)
    return (names, accuracies[1:].tolist(), accuracies[0].tolist()) if np.isfinite(accuracies).all() else None


# Tests


def tests(table: pd.DataFrame) -> Section:
    """Per component and design: whether there is a gap, and whether one of half a point can be ruled out."""
    axes = varied(table)
    by = ["trial", *axes, "component", "weight"]
    found = by_seed(usable(primary(table)), by, "gap")
    compared = {key: statistics.compare(list(gaps.values())) for key, gaps in found.items()}
    large = len(compared) > LARGE_GRID
    adjusted = _adjusted({key: one.p for key, one in compared.items()}, large)
    rows = [
        (
            *_key_cells(key[1:], by[1:]),
            _measured(Estimate(one.mean, one.low, one.high, one.n), unit=""),
            f"{one.p:.3g}",
            f"{statistics.smallest_p(one.n):.3g}",
            f"{adjusted[key]:.3g}",
            statistics.equivalence(list(found[key].values()), statistics.MARGIN).verdict,
            str(one.n),
        )
        for key, one in compared.items()
    ]
    family = (
        f"Benjamini and Hochberg's correction over {len(compared)} rows"
        if large
        else "Holm's correction over the components of a design"
    )
    remark = f"p: exact sign flips over seeds, one-sided for a loss; adjusted: {family}. Smallest: what n seeds allow."
    header = (*by[1:], "gap, points", "p", "smallest p", "adjusted p", "equivalence", "n")
    return _section("Tests", header, rows, remark)


def _adjusted(p_values: Mapping[Key, float], large: bool) -> dict[Key, float]:
    """Over the whole grid, or over the components (and their weights) within each design."""
    if large:
        return dict(zip(p_values, statistics.benjamini_hochberg(list(p_values.values())).tolist(), strict=True))
    designs: dict[Key, list[Key]] = {}
    for key in p_values:
        designs.setdefault(key[:-2], []).append(key)
    families = [(family, statistics.holm([p_values[key] for key in family])) for family in designs.values()]
    return {key: float(p) for family, found in families for key, p in zip(family, found, strict=True)}


def interquartile_means(table: pd.DataFrame) -> Section:
    """Per design with two components or more: the mean of the middle half of the gaps of all seeds and components."""
    axes = varied(table)
    found = nested(by_seed(usable(primary(table)), ["trial", *axes, "component"], "gap"))
    rows = []
    for key, components in found.items():
        gaps = matrix(list(components.values()))  # (S, K)
        if not len(gaps) or len(components) < 2:
            continue
        if len(gaps) > 1:
            over = statistics.iqm_interval(gaps, seed=0, draws=DRAWS)
            cell = _measured(Estimate(over.value, over.low, over.high, over.n), unit="")
        else:
            cell = points(statistics.iqm(gaps))
        design = _key_cells(key[1:], axes) if axes else key[:1]
        rows.append((*design, cell, str(len(components)), str(len(gaps))))
    header = (*(axes or ["trial"]), "interquartile mean, points", "components", "n")
    remark = "Of the gaps over all seeds and components, with a 95 % interval for other seeds."
    return _section("Interquartile mean over components", header, rows, remark)


def examples(table: pd.DataFrame, correct: Correct) -> Section:
    """Per component and design: the gap with an interval for other seeds and other test examples."""
    axes = varied(table)
    by = ["trial", *axes, "component", "weight"]
    good = usable(primary(table))
    good = good[good["gap"].notna()]
    answers: dict[Key, dict[int, tuple[Bools, Bools]]] = {}
    for key, row in zip(keys(good, by), good.to_dict("records"), strict=True):
        if (found := correct(row)) is not None:
            answers.setdefault(key, {})[row["seed"]] = found
    rows = [(*_key_cells(key[1:], by[1:]), *_over_examples(seeds)) for key, seeds in answers.items()]
    remark = (
        "Interval: crossed random effects of seeds and test examples. Bootstrap: seeds and examples resampled "
        "(BCa), too narrow with few seeds. McNemar: whether the two networks of a seed err equally often."
    )
    header = (*by[1:], "gap, points", "interval", "bootstrap", "McNemar p by seed", "examples", "n")
    return _section("Seeds and test examples", header, rows, remark)


def _over_examples(seeds: Mapping[int, tuple[Bools, Bools]]) -> Line:
    tested = {len(arm) for arms in seeds.values() for arm in arms}
    mcnemar = ", ".join(
        f"{seed}: {statistics.mcnemar(*arms):.3g}" for seed, arms in seeds.items() if len(arms[0]) == len(arms[1])
    )
    if len(tested) > 1 or min(tested) < 2:
        return "-", "the seeds are not tested on the same examples", "-", mcnemar, "-", str(len(seeds))
    direct, transfer = (np.stack([arms[arm] for arms in seeds.values()]) for arm in (0, 1))
    crossed = statistics.paired_interval(direct, transfer)
    resampled = statistics.hierarchical_bootstrap(direct, transfer, seed=0)
    ends = [f"[{points(found.low)}, {points(found.high)}]" for found in (crossed, resampled)]
    if crossed.label:
        ends[0] += f", {crossed.label}"
    return points(crossed.value), *ends, mcnemar, f"{direct.shape[1]:,}", str(len(seeds))


# Numbers as people read them


def _section(title: str, header: Iterable[str], rows: Iterable[Line], remark: str = "") -> Section:
    return Section(title, tuple(name.replace("_", " ") for name in header), tuple(rows), remark)


def _readings(table: pd.DataFrame) -> list[str]:
    return [name for name in ("protocol", "shots") if table[name].nunique(dropna=False) > 1]


def _cells(row: Row, by: Sequence[str]) -> Line:
    return _key_cells([row[name] for name in by], by)


def _key_cells(key: Sequence[Any], by: Sequence[str]) -> Line:
    return tuple(_level(name, value) for name, value in zip(by, key, strict=True))


def _level(name: str, value: Any) -> str:
    if name == "shots":
        return "all" if pd.isna(value) else f"{int(value):,}"
    return level(name, value)


def _place(by: Sequence[str], key: Sequence[Any]) -> str:
    """For example `hard`, weight 0.5, width 2."""
    cells = dict(zip(by, _key_cells(key, by), strict=True))
    component = cells.pop("component", None)
    named = [f"{name.replace('_', ' ')} {value}" for name, value in cells.items()]
    return ", ".join([*([f"`{component}`"] if component else []), *named]) or "all"


def _points(row: Row, name: str) -> str:
    """A fraction and its interval in points, from a row with `name`, `name`_low and `name`_high."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    ends = "" if pd.isna(low) else f" {interval(low, high, row['n'])}"
    return points(row.get(name)) + ends


def _measured(found: Estimate, unit: str = " points") -> str:
    ends = "" if found.low is None else f" {interval(found.low, found.high, found.n)}"
    return f"{points(found.mean)}{unit}{ends}"


def _number(value: Any, low: Any, high: Any) -> str:
    if pd.isna(value):
        return "-"
    return f"{value:.2f}" + ("" if pd.isna(low) else f" [{low:.2f}, {high:.2f}]")


def _range(value: Any, low: Any, high: Any) -> str:
    """Numbers of examples; an end outside of what was measured is a dash."""
    if pd.isna(value):
        return "-"
    ends = ["-" if pd.isna(end) else f"{end:,.0f}" for end in (low, high)]
    return f"{value:,.0f} [{ends[0]}, {ends[1]}]"


def _parameter(found: fits.Parameter, scale: float = 1.0) -> str:
    ends = "" if found.low is None or found.high is None else f" [{scale * found.low:.3g}, {scale * found.high:.3g}]"
    return f"{scale * found.value:.3g}{ends}"


def _text(value: Any, absent: str = "-") -> str:
    return absent if pd.isna(value) else str(value)


def _counted(row: Row, **what: str) -> str:
    """For example `1 seeds incomplete, 2 rows invalid`."""
    return ", ".join(f"{row[name]} {spoken}" for name, spoken in what.items() if row[name])


def _mean(seeds: BySeed) -> float:
    return math.fsum(seeds.values()) / len(seeds)
