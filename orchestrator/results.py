"""What came out? The results table: one row per trial, seed and component, from a store or from MLflow.

`COLUMNS` defines every column. A number that could not be computed is absent, never 0; a trial that failed or diverged
has its rows all the same, with their status.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainables.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from trainables.store import Store

Lookup = Callable[[str, str], Mapping[str, Any] | None]  # (kind, digest) -> the stage's result, or None


class ResultsError(UserError):
    """There is no such sweep, column or query; the message says what there is, in one line."""


@dataclass(frozen=True)
class Column:
    """One column: its pandas type, and what it says."""

    dtype: str
    meaning: str


COLUMNS: Mapping[str, Column] = {
    # The design
    "sweep": Column("string", "name of the sweep"),
    "trial": Column("string", "first 12 digits of the trial's digest"),
    "architecture": Column("string", "network by name"),
    "width": Column("Float64", "multiplier of the number of channels or units"),
    "depth": Column("Int64", "layers or blocks; absent: the architecture's own"),
    "parameters": Column("Int64", "parameters of the features of one network, the head left out"),
    "flops": Column("Int64", "floating point operations of one forward pass of one example, the head left out"),
    "representation": Column("string", "what the probe reads: single, cat:n, time_cat:n"),
    "members": Column("Int64", "networks whose features are concatenated"),
    "ordering": Column("string", "when the examples come"),
    "mixture": Column("string", "components and their shares"),
    "component": Column("string", "the component that is measured"),
    "weight": Column("Float64", "its share of the mixture, in [0, 1]"),
    "seen": Column("boolean", "whether pretraining showed any of it"),
    "seed": Column("Int64", "replicate; rows of one seed are paired"),
    "steps": Column("Int64", "optimiser steps of the trial, over all members for time_cat"),
    "train_examples": Column("Int64", "distinct examples in the mixture's pool; absent: all that there are"),
    "protocol": Column("string", "how features become predictions"),
    "direct_kind": Column("string", "which direct baseline: same_steps, same_examples, full"),
    # The measurement
    "gap": Column("Float64", "direct_probe_accuracy - transfer_accuracy; positive: the mixture lost something"),
    "relative_gap": Column(
        "Float64",
        "gap / (direct_probe_accuracy - chance_accuracy); absent where direct is within 0.01 of chance",
    ),
    "recovered_fraction": Column(
        "Float64",
        "(transfer - random_init) / (direct_probe - random_init), accuracies; 1: all that training adds, "
        "negative: worse than random features; absent where the denominator is below 0.01",
    ),
    "transfer_accuracy": Column("Float64", "test accuracy of the probe on the mixture's features, in [0, 1]"),
    "direct_probe_accuracy": Column("Float64", "the same probe on the direct baseline's features, in [0, 1]"),
    "direct_accuracy": Column("Float64", "test accuracy of the direct baseline with its own head, in [0, 1]"),
    "head_accuracy": Column(
        "Float64", "test accuracy of the mixture's network with its own head; single and seen only"
    ),
    "random_init_accuracy": Column("Float64", "the same probe on the features at their random initialisation"),
    "chance_accuracy": Column("Float64", "test accuracy of always answering the most frequent training class"),
    "transfer_loss": Column("Float64", "test cross-entropy of the probe, nats per example"),
    "direct_probe_loss": Column("Float64", "the same of the direct baseline's probe, nats per example"),
    "validation_accuracy": Column("Float64", "of the chosen probe on the mixture's features, in [0, 1]"),
    "l2": Column("Float64", "the L2 penalty that validation chose for the transfer probe"),
    "probe_dimension": Column("Int64", "number of features that the probe reads"),
    # What it cost, where it was computed first
    "seconds": Column("Float64", "wall clock of the mixture's pretraining, all members"),
    "examples_per_second": Column("Float64", "shown in pretraining, per second"),
    "device": Column("string", "what it ran on"),
    # Where it comes from
    "status": Column("string", "ok, pending, failed or diverged"),
    "error": Column("string", "why a trial failed, or when it diverged"),
    "digest": Column("string", "first 12 digits of the transfer probe's digest"),
    "pretrain_digest": Column("string", "of the mixture's pretraining, members joined by +"),
    "direct_digest": Column("string", "of the direct baseline's pretraining"),
    "revision": Column("string", "revision of the code that computed the transfer probe"),
    "versions": Column("string", "versions of the libraries that it ran with"),
}

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
    """One trial's rows: one per seed and component."""
    state = trial_states.get(trial["digest"], {})
    return [_row(plan, trial, cell, lookup, state) for cell in trial["cells"]]


def _row(
    plan: Mapping[str, Any],
    trial: Mapping[str, Any],
    cell: Mapping[str, Any],
    lookup: Lookup,
    state: Mapping[str, Any],
) -> dict[str, Any]:
    design = trial["design"]
    members = [lookup("pretrain", digest) for digest in cell["pretrain"]]
    transfer = lookup("probe", cell["transfer"]) or {}
    direct = (lookup("probe", cell["direct"]) if cell["direct"] else None) or {}
    random_init = lookup("probe", cell["random_init"]) or {}
    direct_run = (lookup("pretrain", cell["direct_pretrain"]) if cell["direct_pretrain"] else None) or {}
    status, error = _status(cell, members, transfer, direct, random_init, direct_run, state)
    first = next((member for member in members if member), {})
    seconds = _total(member.get("seconds") if member else None for member in members)
    shown = _total(member.get("examples") if member else None for member in members)
    row = {
        "sweep": plan["sweep"],
        "trial": trial["digest"][:12],
        **{k: design[k] for k in ("architecture", "width", "depth", "representation", "ordering", "steps")},
        "train_examples": design["train_examples"],
        "mixture": design["mixture_label"],
        "members": len(cell["pretrain"]),
        "parameters": first.get("parameters"),
        "flops": first.get("flops"),
        "component": cell["component"],
        "weight": cell["weight"],
        "seen": cell["weight"] > 0,
        "seed": cell["seed"],
        "protocol": plan["protocol"],
        "direct_kind": plan["direct_kind"],
        "transfer_accuracy": transfer.get("test_accuracy"),
        "transfer_loss": transfer.get("test_loss"),
        "validation_accuracy": transfer.get("validation_accuracy"),
        "head_accuracy": transfer.get("head_accuracy"),
        "chance_accuracy": transfer.get("chance_accuracy"),
        "l2": transfer.get("l2"),
        "probe_dimension": transfer.get("num_features"),
        "direct_probe_accuracy": direct.get("test_accuracy"),
        "direct_probe_loss": direct.get("test_loss"),
        "direct_accuracy": direct.get("head_accuracy"),
        "random_init_accuracy": random_init.get("test_accuracy"),
        "seconds": seconds,
        "examples_per_second": shown / seconds if shown and seconds else None,
        "device": first.get("device"),
        "status": status,
        "error": error,
        "digest": cell["transfer"][:12],
        "pretrain_digest": "+".join(digest[:12] for digest in cell["pretrain"]),
        "direct_digest": cell["direct_pretrain"][:12] if cell["direct_pretrain"] else None,
        "revision": transfer.get("revision"),
        "versions": transfer.get("versions"),
    }
    row |= gaps(
        transfer=row["transfer_accuracy"],
        direct=row["direct_probe_accuracy"],
        random_init=row["random_init_accuracy"],
        chance=row["chance_accuracy"],
    )
    return {name: row.get(name) for name in COLUMNS}


def gaps(
    *, transfer: float | None, direct: float | None, random_init: float | None, chance: float | None
) -> dict[str, float | None]:
    """The gap and its relatives from four accuracies in [0, 1], each absent where it has no meaning.

    Source: mixture-to-component transfer against direct training, as in Yang, Zhang & Bottou (2025),
        arXiv:2506.18221; direct training is measured through the same probe, so that heads cancel.
    """
    if transfer is None or direct is None:
        return {"gap": None, "relative_gap": None, "recovered_fraction": None}
    gap = direct - transfer
    above_chance = direct - chance if chance is not None else 0.0
    learned = direct - random_init if random_init is not None else 0.0
    return {
        "gap": gap,
        "relative_gap": gap / above_chance if above_chance >= 0.01 else None,
        "recovered_fraction": 1 - gap / learned if learned >= 0.01 else None,
    }


def _status(
    cell: Mapping[str, Any],
    members: Sequence[Mapping[str, Any] | None],
    transfer: Mapping[str, Any],
    direct: Mapping[str, Any],
    random_init: Mapping[str, Any],
    direct_run: Mapping[str, Any],
    state: Mapping[str, Any],
) -> tuple[str, str | None]:
    for what, run in (*(("the mixture", member) for member in members), ("the direct baseline", direct_run)):
        if run and run.get("status") == "diverged":
            return "diverged", f"pretraining on {what} diverged at step {run['diverged_at']}"
    if transfer and random_init and (direct or not cell["direct"]):
        return "ok", None
    if state.get("status") == "failed":
        return "failed", state.get("error")
    return "pending", None


def trial_status(rows: Iterable[Mapping[str, Any]]) -> str:
    """A trial is pending until all its rows have an outcome, and then has the worst of them."""
    present = {row["status"] for row in rows}
    return next((status for status in ("pending", "failed", "diverged") if status in present), "ok")


def trial_statuses(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many trials have each status."""
    trials: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        trials.setdefault(row["trial"], []).append(row)
    return dict(Counter(map(trial_status, trials.values())))


def _total(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return math.fsum(v for v in known if v is not None) if known and None not in known else None


def table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a table with the columns and types of `COLUMNS`."""
    import pandas as pd

    collected = list(rows)
    return pd.DataFrame(
        {n: pd.array([row.get(n) for row in collected], dtype=c.dtype) for n, c in COLUMNS.items()}  # type: ignore[call-overload]
    )


def load(
    sweep: str,
    *,
    storage: str | None = None,
    tracking_uri: str | None = None,
    where: str | None = None,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """The results of a sweep.

    Args:
        sweep: its name.
        storage: the store it ran in; None: `BOTTLENECK_STORAGE`, or `bottleneck-runs`.
        tracking_uri: read from this MLflow tracking server or database, and not from a store.
        where: a pandas query over the columns, for example `"weight > 0 and gap > 0.02"`.
        columns: which columns, in which order; None: all of `COLUMNS`.

    Raises:
        ResultsError: there is no such sweep or column, or `where` is not a query over the columns.
    """
    if tracking_uri is not None:
        from orchestrator import tracking

        found = table(tracking.read_rows(sweep, tracking_uri))
    else:
        found = table(stored_rows(sweep, storage))
    return select(found, where, columns)


def stored_rows(sweep: str, storage: str | None = None) -> list[dict[str, Any]]:
    """The rows of a sweep from a store. Raises UnknownSweep if it has no such sweep."""
    from orchestrator.journal import Journal
    from orchestrator.settings import storage_location
    from trainables.store import Store

    store = Store(storage_location(storage).value)
    journal = Journal(store, sweep)
    return rows(journal.plan(), store_lookup(store), journal.trial_states())


def store_lookup(store: Store) -> Lookup:
    """The store's `get`, each result read once: a baseline stands in many rows. What is not there yet is looked for
    again."""
    found: dict[str, Mapping[str, Any]] = {}

    def lookup(kind: str, digest: str) -> Mapping[str, Any] | None:
        if digest not in found:
            result = store.get(kind, digest)
            if result is None:
                return None
            found[digest] = result
        return found[digest]

    return lookup


def select(found: pd.DataFrame, where: str | None, columns: Sequence[str] | None) -> pd.DataFrame:
    """The rows that a pandas query keeps, and the named columns."""
    if where:
        try:
            found = found.query(where, engine="python")
        except Exception as error:  # pandas raises many kinds for a query that it cannot read
            raise ResultsError(f"where: {where!r} is not a query over the columns: {error}") from error
    unknown = [name for name in columns or () if name not in COLUMNS]
    if unknown:
        raise ResultsError(f"there is no column {unknown[0]!r}; the columns are {', '.join(COLUMNS)}")
    return found[list(columns)] if columns else found
