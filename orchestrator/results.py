"""What came out? The results table: one row per trial, seed, component and protocol, from a store or from MLflow.

`COLUMNS` defines every column; docs/measurements.md has the formulas and their sources. A number that could not be
computed is absent, never 0; a trial that failed or diverged has its rows all the same, with their status. A comparison
that says nothing (a direct baseline below random features, dead features, a class that is missing) is marked invalid
and has no gap.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from orchestrator.memory import no_collections
from trainables.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator import table_cache
    from trainables.store import Store

Unit = Literal[
    "", "fraction", "nats", "log odds", "FLOPs", "steps", "examples", "networks", "seconds", "examples per second"
]
Lookup = Callable[[str, str], Mapping[str, Any] | None]  # (kind, digest) -> the stage's result, or None


class ResultsError(UserError):
    """There is no such sweep, column or query; the message says what there is, in one line."""


@dataclass(frozen=True)
class Column:
    """One column: its pandas type, what it says, and in which unit."""

    dtype: str
    meaning: str
    unit: Unit = ""  # empty: a name, a truth, or a number that has none


COLUMNS: Mapping[str, Column] = {
    # The design
    "sweep": Column("string", "name of the sweep"),
    "trial": Column("string", "first 12 digits of the trial's digest"),
    "architecture": Column("string", "network by name"),
    "width": Column("Float64", "multiplier of the number of channels or units"),
    "depth": Column("Int64", "layers or blocks; absent: the architecture's own"),
    "parameters": Column("Int64", "parameters of the features of one network, the head left out"),
    "flops": Column(
        "Int64", "floating point operations of one forward pass of one example, the head left out", "FLOPs"
    ),
    "representation": Column("string", "what the probe reads: single, cat:n, time_cat:n, complement:n, wide:n, ..."),
    "members": Column("Int64", "networks whose features are concatenated", "networks"),
    "ordering": Column("string", "when the examples come"),
    "mixture": Column("string", "components and their shares"),
    "component": Column("string", "the component that is measured"),
    "weight": Column("Float64", "its share of the mixture, in [0, 1]", "fraction"),
    "seen": Column("boolean", "whether pretraining showed any of it"),
    "seed": Column("Int64", "replicate; rows of one seed are paired"),
    "steps": Column("Int64", "optimiser steps of the trial, over all members for time_cat", "steps"),
    "train_examples": Column(
        "Int64", "distinct examples in the mixture's pool; absent: all that there are", "examples"
    ),
    "training": Column("string", "what differs from the sweep's own training; absent: nothing"),
    "protocol": Column("string", "how networks become predictions: linear_probe, ridge, knn, finetune, ..."),
    "shots": Column("Int64", "training examples of each class that the protocol is given; absent: all", "examples"),
    "primary": Column("boolean", "whether the protocol is the first of the sweep, which answers its question"),
    "direct_kind": Column("string", "which direct baseline: same_steps, same_examples, full"),
    # The measurement
    "gap": Column(
        "Float64", "direct_probe_accuracy - transfer_accuracy; positive: the mixture lost something", "fraction"
    ),
    "relative_gap": Column(
        "Float64",
        "gap / (direct_probe_accuracy - chance_accuracy); absent where direct is within 0.01 of chance",
        "fraction",
    ),
    "recovered_fraction": Column(
        "Float64",
        "(transfer - random_init) / (direct_probe - random_init), accuracies; 1: all that training adds, "
        "negative: worse than random features; absent where the denominator is below 0.01",
        "fraction",
    ),
    "error_ratio": Column("Float64", "(1 - transfer_accuracy) / (1 - direct_probe_accuracy); above 1: worse"),
    "log_odds_gap": Column(
        "Float64",
        "log odds of direct minus those of transfer, right answers counted as (k + 1/2) / (n + 1)",
        "log odds",
    ),
    "loss_gap": Column(
        "Float64", "transfer_loss - direct_probe_loss, nats per example; positive: lost something", "nats"
    ),
    "head_gap": Column(
        "Float64", "direct_accuracy - head_accuracy, end to end; positive: the mixture is worse", "fraction"
    ),
    "over_probe": Column(
        "Float64", "transfer_accuracy minus that of linear_probe on the same networks and shots", "fraction"
    ),
    "invalid": Column("string", "why the comparison says nothing; absent: it is valid"),
    "transfer_accuracy": Column(
        "Float64", "test accuracy of the protocol on the mixture's networks, in [0, 1]", "fraction"
    ),
    "direct_probe_accuracy": Column(
        "Float64", "the same probe on the direct baseline's features, in [0, 1]", "fraction"
    ),
    "direct_accuracy": Column(
        "Float64", "test accuracy of the direct baseline with its own head, in [0, 1]", "fraction"
    ),
    "head_accuracy": Column(
        "Float64", "test accuracy of the mixture's network with its own head; single and seen only", "fraction"
    ),
    "random_init_accuracy": Column(
        "Float64", "the same protocol on the networks at their random initialisation", "fraction"
    ),
    "raw_accuracy": Column(
        "Float64", "a linear probe of the raw input; absent where that has more than 4096 values", "fraction"
    ),
    "chance_accuracy": Column(
        "Float64", "test accuracy of always answering the most frequent training class", "fraction"
    ),
    "transfer_loss": Column("Float64", "test cross-entropy of the probe, nats per example", "nats"),
    "direct_probe_loss": Column("Float64", "the same of the direct baseline's probe, nats per example", "nats"),
    "validation_accuracy": Column("Float64", "of the chosen probe on the mixture's features, in [0, 1]", "fraction"),
    "l2": Column("Float64", "the L2 penalty that validation chose for the transfer probe"),
    "chosen": Column("string", "everything that validation chose for the transfer, name=value"),
    "probe_dimension": Column("Int64", "number of features that the probe reads"),
    "direct_steps": Column("Int64", "optimiser steps of the direct baseline; of `full`, chosen on validation", "steps"),
    "num_train": Column("Int64", "training examples of the component that the protocol was given", "examples"),
    "num_test": Column("Int64", "test examples", "examples"),
    # Retention, of the primary protocol's row
    "retention": Column(
        "Float64",
        "(predictability - floor) / (ceiling - floor); 1: the direct features are all there, 0: as at random",
        "fraction",
    ),
    "predictability": Column("Float64", "R2 of the direct features, ridge from the mixture's, on test examples"),
    "predictability_ceiling": Column("Float64", "the same from a direct baseline of another seed"),
    "predictability_floor": Column("Float64", "the same from the features at their random initialisation"),
    "cka": Column("Float64", "linear CKA of the mixture's and the direct features, in [0, 1]"),
    "debiased_cka": Column("Float64", "the same by the unbiased estimator of HSIC"),
    "svcca": Column("Float64", "mean canonical correlation of the directions with 99 % of the variance"),
    "pwcca": Column("Float64", "canonical correlations weighted by projection"),
    "cca_r2": Column("Float64", "mean squared canonical correlation"),
    "effective_rank": Column("Float64", "exponential of the entropy of the singular values' shares"),
    "participation_ratio": Column("Float64", "(sum of the covariance's eigenvalues)^2 / sum of their squares"),
    "stable_rank": Column("Float64", "squared Frobenius norm / squared spectral norm"),
    "dimensions_99": Column("Int64", "principal components with 99 % of the variance"),
    "direct_effective_rank": Column("Float64", "effective rank of the direct features"),
    "dead_share": Column("Float64", "share of features that never vary or are never above 0, in [0, 1]", "fraction"),
    "hoyer": Column("Float64", "Hoyer sparsity of a feature vector, mean; 0: dense, 1: one feature only"),
    "active_share": Column("Float64", "share of features above 0, mean over examples", "fraction"),
    "class_separation": Column("Float64", "1 - cosine distance within classes / over all examples"),
    "direct_class_separation": Column("Float64", "the same of the direct features"),
    "complementarity": Column(
        "Float64", "accuracy of all members' features minus that of the best member's", "fraction"
    ),
    "disagreement": Column(
        "Float64", "share of test examples on which two members' probes differ, mean over pairs", "fraction"
    ),
    "member_predictability": Column("Float64", "R2 of one member's features from another's, mean over pairs"),
    # Trajectory, of the primary protocol's row
    "peak_accuracy": Column("Float64", "the best accuracy of a probe at any checkpoint", "fraction"),
    "peak_step": Column("Int64", "the step of that checkpoint", "steps"),
    "drop_from_peak": Column(
        "Float64", "peak_accuracy minus the accuracy at the end; positive: forgotten again", "fraction"
    ),
    "threshold_step": Column(
        "Int64",
        "first checkpoint with half of what direct training adds to random features; absent: never reached",
        "steps",
    ),
    "final_saturation": Column(
        "Float64", "what the residual still says about the direct features at the end / at the start", "fraction"
    ),
    "saturation_step": Column("Int64", "first checkpoint with a saturation below 0.05; absent: never", "steps"),
    "retention_step": Column("Int64", "first checkpoint with a retention of one half; absent: never", "steps"),
    "retention_after": Column(
        "Float64", "retention at the end minus that at saturation_step; negative: lost again", "fraction"
    ),
    # What it cost, where it was computed first
    "training_flops": Column(
        "Float64", "floating point operations of the pretraining, all members and what they were taught by", "FLOPs"
    ),
    "seconds": Column(
        "Float64", "wall clock of the mixture's pretraining, all members and what they were taught by", "seconds"
    ),
    "examples_per_second": Column("Float64", "shown in pretraining, per second", "examples per second"),
    "device": Column("string", "what it ran on"),
    # Where it comes from
    "status": Column("string", "ok, pending, failed, diverged, or stopped early"),
    "error": Column("string", "why a trial failed, when it diverged, or where it was stopped"),
    "digest": Column("string", "first 12 digits of the transfer probe's digest"),
    "pretrain_digest": Column("string", "of the mixture's pretraining, members joined by +"),
    "direct_digest": Column("string", "of the direct baseline's pretraining"),
    "revision": Column("string", "revision of the code that computed the transfer probe"),
    "versions": Column("string", "versions of the libraries that it ran with"),
}

ABSENT: Mapping[str, None] = dict.fromkeys(COLUMNS)

# What tells the rows of a sweep's other tables apart.
DESIGN = (
    "trial", "architecture", "width", "depth", "representation", "ordering", "mixture", "training", "component",
    "weight", "seed",
)  # fmt: skip
GAPS = ("gap", "relative_gap", "error_ratio", "log_odds_gap", "loss_gap", "recovered_fraction")
PROBES = ("transfer", "random_init", "untrained", "raw")
RETENTION = tuple(COLUMNS)[list(COLUMNS).index("retention") : list(COLUMNS).index("peak_accuracy")]

# Values of stored results that the table computes with or shows.
NUMBERS = (
    "test_accuracy", "test_loss", "validation_accuracy", "head_accuracy", "chance_accuracy", "num_features",
    "num_train", "num_test", "missing_classes", "varying_features", "diverged_at", "seconds", "examples",
    "training_flops", "parameters", "flops", "started", "finished", *RETENTION,
)  # fmt: skip
TEXTS = ("status", "reason", "device", "revision", "versions")
WRITTEN: Mapping[str, tuple[str, tuple[type, ...]]] = {
    **dict.fromkeys(NUMBERS, ("number", (int, float))),
    **dict.fromkeys(TEXTS, ("text", (str,))),
}
# What is read of a plan, of a trial's design, and of a cell: `Plan.as_json` of an earlier version may lack some of it.
PLANNED = frozenset({"direct_kind", "label_space"})
DESIGNED = frozenset({
    "architecture", "width", "depth", "representation", "ordering", "steps", "train_examples", "training",
    "mixture_label",
})  # fmt: skip
CELL = frozenset({
    "seed", "component", "weight", "protocol", "shots", "primary", "tunes", "direct", "baselines", "pretrain", "paid",
    "teachers", "retention", "trajectory", *PROBES,
})  # fmt: skip
REMEMBERED_RESULTS = 2**15  # those of 3,000 trials; 5 kB each on average, 150 MB in all

# What differs between two runs of the same work: everything else is the same after any restart.
COST_COLUMNS = ("seconds", "examples_per_second", "device")


def rows(
    plan: Mapping[str, Any], lookup: Lookup, trial_states: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The table's rows in the order of the plan.

    Args:
        plan: what `Plan.as_json` wrote.
        lookup: the results of stages.
        trial_states: by trial digest, the journal's last event of the trial.
    """
    return [row for trial in plan["trials"] for row in trial_rows(plan, trial, lookup, trial_states)]


def trial_rows(
    plan: Mapping[str, Any],
    trial: Mapping[str, Any],
    lookup: Lookup,
    trial_states: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """One trial's rows: one per seed, component, protocol and number of shots.

    Raises:
        ResultsError: the plan is of an earlier version, and lacks what the rows rest on.
    """
    _require_whole(plan, trial)
    state, design = trial_states.get(trial["digest"], {}), _design(plan, trial)
    trained: dict[tuple[str, ...], Trained] = {}  # by digests: the cells of a seed have the same networks
    rows = [_row(plan, design, cell, _trained(cell, lookup, trained), lookup, state) for cell in trial["cells"]]
    probes = {_same_probe(row): row["transfer_accuracy"] for row in rows if row["protocol"] == "linear_probe"}
    unfounded = {(row["seed"], row["component"]): row["invalid"] for row in rows if row["primary"] and row["invalid"]}
    for row in rows:
        if row["invalid"] is None and (why := unfounded.get((row["seed"], row["component"]))):
            row |= {"invalid": why, **dict.fromkeys(GAPS)}
        probe = probes.get(_same_probe(row))
        if row["protocol"] != "linear_probe" and None not in (probe, row["transfer_accuracy"]):
            row["over_probe"] = row["transfer_accuracy"] - probe
    return rows


def _require_whole(plan: Mapping[str, Any], trial: Mapping[str, Any]) -> None:
    cell = next(iter(trial["cells"]), CELL)  # the cells of a trial have the same keys
    asked = ((PLANNED, plan), (DESIGNED, trial["design"]), (CELL, cell))
    if missing := sorted(set().union(*(keys.difference(has) for keys, has in asked))):
        raise ResultsError(
            f"found a plan of sweep {plan['sweep']!r} by an earlier version, without {', '.join(missing)}; run the "
            "sweep again with this version, which computes only what the store lacks"
        )


def _same_probe(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Which linear probe reads the same networks with the same examples as a row's protocol."""
    return row["seed"], row["component"], row["shots"]


def _design(plan: Mapping[str, Any], trial: Mapping[str, Any]) -> dict[str, Any]:
    """What all rows of a trial have in common."""
    design = trial["design"]
    return {
        "sweep": plan["sweep"],
        "trial": trial["digest"][:12],
        **{k: design[k] for k in ("architecture", "width", "depth", "representation", "ordering", "steps")},
        "train_examples": design["train_examples"],
        "training": design["training"] or None,
        "mixture": design["mixture_label"],
        "direct_kind": plan["direct_kind"],
    }


class Trained(NamedTuple):
    """What the pretraining of a mixture's networks was."""

    columns: dict[str, Any]
    diverged: str | None  # why there is no such network


def _trained(cell: Mapping[str, Any], lookup: Lookup, known: dict[tuple[str, ...], Trained]) -> Trained:
    """That of a cell; the same again where it is known already."""
    key = (*cell["pretrain"], "", *cell["teachers"], "", *cell["paid"])
    if key not in known:
        members = [lookup("pretrain", digest) for digest in cell["pretrain"]]
        teachers = [lookup("pretrain", digest) for digest in cell["teachers"]]
        runs = [*(lookup("pretrain", digest) for digest in cell["paid"]), *teachers]
        seconds, shown, flops = (_total(runs, name) for name in ("seconds", "examples", "training_flops"))
        first = next((member for member in members if member), {})
        diverged = [run["diverged_at"] for run in (*members, *teachers) if run and run.get("status") == "diverged"]
        columns = {
            "members": len(members),
            "parameters": first.get("parameters"),
            "flops": first.get("flops"),
            "training_flops": flops,
            "seconds": seconds,
            "examples_per_second": shown / seconds if shown and seconds else None,
            "device": first.get("device"),
            "pretrain_digest": "+".join(digest[:12] for digest in cell["pretrain"]),
        }
        why = f"pretraining on the mixture diverged at step {diverged[0]}" if diverged else None
        known[key] = Trained(columns, why)
    return known[key]


def _row(
    plan: Mapping[str, Any],
    design: Mapping[str, Any],
    cell: Mapping[str, Any],
    trained: Trained,
    lookup: Lookup,
    state: Mapping[str, Any],
) -> dict[str, Any]:
    found = {name: (lookup("probe", cell[name]) if cell[name] else None) or {} for name in PROBES}
    transfer, random_init = found["transfer"], found["random_init"]
    baseline, direct, lost = chosen_baseline(cell["baselines"], lookup)
    status, error = _status(cell, trained, found, direct, lost, state, lookup)
    chosen = transfer.get("chosen", {})
    row = {
        **ABSENT,
        **design,
        **trained.columns,
        "component": cell["component"],
        "weight": cell["weight"],
        "seen": cell["weight"] > 0,
        "seed": cell["seed"],
        "protocol": cell["protocol"],
        "shots": cell["shots"],
        "primary": cell["primary"],
        "transfer_accuracy": transfer.get("test_accuracy"),
        "transfer_loss": transfer.get("test_loss"),
        "validation_accuracy": transfer.get("validation_accuracy"),
        # Without a shared label space the outputs of a head are other components' classes.
        "head_accuracy": transfer.get("head_accuracy") if cell["weight"] or plan["label_space"] == "shared" else None,
        "chance_accuracy": transfer.get("chance_accuracy"),
        "l2": chosen.get("l2"),
        "chosen": " ".join([f"{name}={value:g}" for name, value in chosen.items()]) or None,
        "probe_dimension": transfer.get("num_features"),
        "num_train": transfer.get("num_train"),
        "num_test": transfer.get("num_test"),
        "direct_probe_accuracy": direct.get("test_accuracy"),
        "direct_probe_loss": direct.get("test_loss"),
        "direct_accuracy": direct.get("head_accuracy"),
        "direct_steps": baseline.get("steps"),
        "random_init_accuracy": random_init.get("test_accuracy"),
        "raw_accuracy": found["raw"].get("test_accuracy"),
        "status": status,
        "error": error,
        "digest": cell["transfer"][:12],
        "direct_digest": baseline["pretrain"][:12] if baseline else None,
        "revision": transfer.get("revision"),
        "versions": transfer.get("versions"),
    }
    row["invalid"] = invalid(transfer, direct, found["untrained"])
    if row["invalid"] is None:
        row |= gaps(transfer, direct, random_init)
    if cell["tunes"]:  # at random initialisation that is training from scratch, and no lower end of a scale
        row["recovered_fraction"] = None
    if None not in (row["direct_accuracy"], row["head_accuracy"]):
        row["head_gap"] = row["direct_accuracy"] - row["head_accuracy"]
    if cell["retention"]:
        measured = lookup("retention", cell["retention"]) or {}
        row |= {name: measured.get(name) for name in RETENTION}
    if cell["trajectory"]:
        curves = lookup("trajectory", cell["trajectory"])
        if curves:
            from orchestrator.analysis import trajectories

            # Against the direct accuracy of the same probe of the same examples, which the curves bring along.
            row |= trajectories.summarise(curves, None, ceiling=row.get("predictability_ceiling"))
    return row


def chosen_baseline(
    baselines: Sequence[Mapping[str, Any]], lookup: Lookup
) -> tuple[Mapping[str, Any], Mapping[str, Any], str | None]:
    """The baseline of the budget that validation prefers, the first of equals: which it is, and its probe.

    Both are empty until all budgets are there. Those that diverged are left out; if all did, the last says when.
    """
    diverged, measured = None, []
    for baseline in baselines:
        run = lookup("pretrain", baseline["pretrain"]) or {}
        if run.get("status") == "diverged":
            diverged = f"pretraining on the direct baseline diverged at step {run['diverged_at']}"
            continue
        measured.append((baseline, lookup("probe", baseline["probe"]) or {}))
    if not measured or not all(probe for _, probe in measured):
        first = baselines[0] if baselines else {}
        return first, {}, None if measured else diverged
    return *max(measured, key=lambda found: found[1].get("validation_accuracy", -1.0)), None


def invalid(transfer: Mapping[str, Any], direct: Mapping[str, Any], untrained: Mapping[str, Any]) -> str | None:
    """Why a comparison of probes says nothing, from their results; None if it is valid, or not there yet.

    Args:
        untrained: of the baseline's own network at its initialisation, by the same protocol; empty: not looked at.
    """
    for what, probe in (("the mixture's", transfer), ("the direct", direct)):
        if probe.get("status") == "impossible":
            return f"{what} network cannot be read: {probe['reason']}"
        if probe.get("varying_features") == 0:
            return f"{what} network is dead: its features are the same for every example"
        if probe.get("missing_classes"):
            return f"{probe['missing_classes']} classes have no example in a split of the probe of {what} features"
    if direct and untrained and direct["test_accuracy"] < untrained.get("test_accuracy", 0.0):
        return "the direct baseline is below the same network at random initialisation"
    return None


def gaps(
    transfer: Mapping[str, Any], direct: Mapping[str, Any], random_init: Mapping[str, Any]
) -> dict[str, float | None]:
    """The gap and its relatives from the results of three probes, each absent where it has no meaning.

    Source: mixture-to-component transfer against direct training, as in Yang, Zhang & Bottou (2025),
        arXiv:2506.18221; direct training is measured through the same probe, so that heads cancel.
    """
    if not transfer or not direct:
        return {}
    reached, possible = transfer["test_accuracy"], direct["test_accuracy"]
    gap = possible - reached
    above_chance = possible - transfer["chance_accuracy"]
    learned = possible - random_init["test_accuracy"] if random_init.get("status") == "ok" else 0.0
    return {
        "gap": gap,
        "relative_gap": gap / above_chance if above_chance >= 0.01 else None,
        "error_ratio": (1 - reached) / (1 - possible) if possible < 1 else None,
        "log_odds_gap": _log_odds(direct) - _log_odds(transfer),
        "loss_gap": transfer["test_loss"] - direct["test_loss"],
        "recovered_fraction": 1 - gap / learned if learned >= 0.01 else None,
    }


def _log_odds(probe: Mapping[str, Any]) -> float:
    right = (probe["test_accuracy"] * probe["num_test"] + 0.5) / (probe["num_test"] + 1)
    return math.log(right / (1 - right))


def _status(
    cell: Mapping[str, Any],
    trained: Trained,
    found: Mapping[str, Mapping[str, Any]],
    direct: Mapping[str, Any],
    lost: str | None,
    state: Mapping[str, Any],
    lookup: Lookup,
) -> tuple[str, str | None]:
    if trained.diverged:
        return "diverged", trained.diverged
    if lost:
        return "diverged", lost
    # Retention rests on a baseline of another seed too: if that diverged, the trial ends without it.
    measured = all(lookup(kind, cell[kind]) for kind in ("retention", "trajectory") if cell[kind])
    whole = measured or state.get("status") == "ok"
    if found["transfer"] and found["random_init"] and (direct or not cell["direct"]) and whole:
        return "ok", None
    if state.get("status") in ("failed", "stopped"):
        # JSON can hold halves of surrogate pairs, which no file and no terminal takes.
        return state["status"], str(state.get("error") or "").encode("utf-8", "replace").decode() or None
    return "pending", None


def trial_status(rows: Iterable[Mapping[str, Any]]) -> str:
    """A trial is pending until all its rows have an outcome, and then has the worst of them."""
    present = {row["status"] for row in rows}
    return next((status for status in ("pending", "failed", "diverged", "stopped") if status in present), "ok")


def outcomes(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The status of each trial."""
    trials: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        trials.setdefault(row["trial"], []).append(row)
    return {trial: trial_status(rows) for trial, rows in trials.items()}


def trial_statuses(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many trials have each status."""
    return dict(Counter(outcomes(rows).values()))


def _total(runs: Sequence[Mapping[str, Any] | None], name: str) -> float | None:
    """The sum of a value over runs; None where one of them has none."""
    known = [run.get(name) if run else None for run in runs]
    return math.fsum(v for v in known if v is not None) if known and None not in known else None


def table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a table with the columns and types of `COLUMNS`."""
    import pandas as pd

    columns = list(zip(*[{**ABSENT, **row}.values() for row in rows], strict=False)) or [()] * len(COLUMNS)

    def array(values: Sequence[Any], dtype: str) -> Any:
        if values.count(None) == len(values):  # many are, and looking for their type takes as long as numbers
            return pd.Series(None, index=range(len(values)), dtype=dtype).array
        return pd.array(values, dtype=dtype)  # type: ignore[call-overload]

    # What a row has beside the columns is behind them.
    return pd.DataFrame({n: array(values, c.dtype) for (n, c), values in zip(COLUMNS.items(), columns, strict=False)})


def load(
    sweep: str | Sequence[str] | None = None,
    *,
    storage: str | None = None,
    tracking_uri: str | None = None,
    where: str | None = None,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """The results of a sweep, or of several one below the other, which the column `sweep` tells apart.

    A store and MLflow give the same table, but that MLflow has no rows of trials without an outcome yet.

    Args:
        sweep: its name, or several; None: all that there are.
        storage: the store they ran in; None: `BOTTLENECK_STORAGE`, or `bottleneck-runs`.
        tracking_uri: read from this MLflow tracking server or database, and not from a store.
        where: a pandas query over the columns, for example `"weight > 0 and gap > 0.02"`. A row for which it is
            absent, as where it has no gap, is left out.
        columns: which columns, in which order; None: all of `COLUMNS`, which has their meanings and units.

    Raises:
        UnknownSweep, TrackingError: there is no such sweep, or none at all.
        ResultsError: there is no such column, or `where` is not a query over the columns.
    """
    named = None if sweep is None else list(dict.fromkeys([sweep] if isinstance(sweep, str) else sweep))
    with no_collections():
        if tracking_uri is not None:
            from orchestrator import tracking

            names = tracking.sweeps(tracking_uri) if named is None else named
            found = table([row for name in names for row in tracking.read_rows(name, tracking_uri)])
        else:
            found = _stored_table(named, storage)
    return select(found, where, columns)


def trajectories(sweep: str, *, storage: str | None = None) -> pd.DataFrame:
    """The curves of a sweep's trajectories: one row per trial, seed, component and checkpoint.

    Its columns are `DESIGN` of the results table, `step`, and the curves that `trainables.trajectory.measure` gives.

    Raises:
        ResultsError: there is no such sweep.
    """
    return measured(*_stored(sweep, storage), "trajectory")


def layers(sweep: str, *, storage: str | None = None) -> pd.DataFrame:
    """The probes of every layer, of sweeps with `retention: {layers: true}`: one row per row of results and layer.

    Raises:
        ResultsError: there is no such sweep.
    """
    return measured(*_stored(sweep, storage), "layers")


def attributes(sweep: str, *, storage: str | None = None) -> pd.DataFrame:
    """How well a probe reads what constructed images were made from: one row per row of results and attribute.

    Raises:
        ResultsError: there is no such sweep.
    """
    return measured(*_stored(sweep, storage), "attributes")


def measured(
    plan: Mapping[str, Any], lookup: Lookup, what: Literal["trajectory", "layers", "attributes"]
) -> pd.DataFrame:
    """What stages have measured many times for one row of results, each time with the design of that row."""
    import pandas as pd

    kind = "trajectory" if what == "trajectory" else "retention"
    found = []
    for trial in plan["trials"]:
        if not any(cell[kind] for cell in trial["cells"]):
            continue
        for cell, row in zip(trial["cells"], trial_rows(plan, trial, lookup, {}), strict=True):
            result = lookup(kind, cell[kind]) if cell[kind] else None
            entries = () if result is None else _checkpoints(result) if what == "trajectory" else result.get(what, ())
            found += [{**{name: row[name] for name in DESIGN}, **entry} for entry in entries]
    return pd.DataFrame(found)


def _stored(sweep: str, storage: str | None) -> tuple[dict[str, Any], Lookup]:
    from orchestrator.journal import Journal
    from orchestrator.settings import storage_location
    from trainables.store import Store

    store = Store(storage_location(storage).value)
    return Journal(store, sweep).plan(), store_lookup(store)


def _checkpoints(curves: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    named = {name: curve for name, curve in curves.items() if isinstance(curve, list)}
    return [dict(zip(named, values, strict=True)) for values in zip(*named.values(), strict=True)]


def _stored_table(sweeps: Sequence[str] | None, storage: str | None) -> pd.DataFrame:
    """The table of sweeps from a store; None: of all that it has. Raises UnknownSweep if it has no such sweep."""
    from orchestrator import table_cache
    from orchestrator.journal import Journal, UnknownSweep
    from orchestrator.settings import storage_location
    from trainables.store import Store

    store = Store(storage_location(storage).value)
    names = store.names("sweeps") if sweeps is None else sweeps
    if sweeps is None and not names:
        raise UnknownSweep(f"storage {store.shown!r} has no sweeps")
    journals = [Journal(store, name) for name in names]

    def make(stamps: table_cache.Stamps | None) -> pd.DataFrame:
        lookup = store_lookup(store, stamps)
        return table([row for journal in journals for row in rows(journal.plan(), lookup, journal.trial_states())])

    return table_cache.remembered(journals, make)


def store_lookup(store: Store, stamps: table_cache.Stamps | None = None) -> Lookup:
    """The store's `get`, which remembers the results asked for last: a baseline stands in many rows. What is not there
    yet is looked for again.

    Args:
        stamps: takes down which file each result was when it was read for the first time.
    """
    found: OrderedDict[str, Mapping[str, Any]] = OrderedDict()

    def lookup(kind: str, digest: str) -> Mapping[str, Any] | None:
        if digest in found:
            found.move_to_end(digest)
            return found[digest]
        result, stamp = store.get_stamped(kind, digest)
        if stamps is not None:  # of a damaged entry, which cannot be set aside everywhere, that it is not there
            stamps.setdefault((kind, digest), None if result is None else stamp)
        if result is None:
            return None
        _require_written_by_us(store, kind, digest, result)
        found[digest] = result
        if len(found) > REMEMBERED_RESULTS:
            found.popitem(last=False)
        return result

    return lookup


def _require_written_by_us(store: Store, kind: str, digest: str, result: Mapping[str, Any]) -> None:
    """Raises ResultsError for values that no stage writes. A checksum tells damage, not who wrote the entry."""
    for name, value in result.items():
        if name not in WRITTEN:
            continue
        said, types = WRITTEN[name]
        if type(value) in types:  # by its type itself: JSON's true is no number
            continue
        # A trajectory has one value for each checkpoint.
        values = value if kind == "trajectory" and isinstance(value, list) else (value,)
        for one in values:
            if one is not None and type(one) not in types:
                raise ResultsError(
                    f"storage {store.shown!r}: {name} of {kind} {digest[:12]} is {str(value)[:60]!r} and no {said}; "
                    f"this program did not write it: remove {store.path(f'stages/{kind}/{digest[:2]}/{digest}')} and "
                    "run the sweep again"
                )


def select(found: pd.DataFrame, where: str | None, columns: Sequence[str] | None) -> pd.DataFrame:
    """The rows for which a pandas query is true, and the named columns. Raises ResultsError."""
    unknown = [name for name in columns or () if name not in COLUMNS]
    if unknown:
        raise ResultsError(f"there is no column {unknown[0]!r}; the columns are {', '.join(COLUMNS)}")
    named = list(columns) if columns else list(found.columns)
    return found.loc[_kept(found, where), named] if where else found[named]


def _kept(found: pd.DataFrame, where: str) -> pd.Series[bool]:
    """Which rows a query keeps. Taking them from the named columns alone spares a copy of all the others."""
    from pandas.api.types import is_bool_dtype

    try:
        kept: Any = found.eval(where, engine="python")
    except Exception as error:  # pandas raises many kinds for a query that it cannot read
        raise ResultsError(f"where: {where!r} is not a query over the columns: {error}") from error
    if getattr(kept, "shape", None) != (len(found),) or not is_bool_dtype(kept):
        raise ResultsError(f'where: {where!r} is neither true nor false of a row; "gap > 0.02" is an example')
    return kept.fillna(False)  # type: ignore[no-any-return]
