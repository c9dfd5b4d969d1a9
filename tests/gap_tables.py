"""Results tables with planted gaps, and the plans that they would come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from orchestrator import results
from orchestrator.cost import Cost

Row = dict[str, Any]

# What the toy of two views measured (docs: Toy C), in fractions by weight of the hard view.
HARD_GAPS = {0: 0.437, 0.02: 0.156, 0.05: 0.100, 0.1: 0.074, 0.2: 0.041, 0.5: 0.013}
PROVENANCE = {
    "revision": "3f2a91c",
    "command": "bottleneck run sweeps/quickstart.yaml",
    "storage": "bottleneck-runs",
    "started": "2026-02-11 09:14:02 UTC",
}


def row(
    *,
    gap: float | None = 0.1,
    direct: float = 0.9,
    random_init: float | None = 0.5,
    status: str = "ok",
    **columns: Any,
) -> Row:
    """A row of the table; with `gap` None it has no baseline, and with a status other than ok no numbers."""
    found: Row = {
        "sweep": "planted",
        "trial": "0" * 12,
        "architecture": "mlp",
        "width": 1.0,
        "representation": "single",
        "ordering": "shuffled",
        "mixture": "both 50 % + hard 50 %",
        "component": "hard",
        "weight": 0.5,
        "seed": 1,
        "steps": 2000,
        "protocol": "linear_probe",
        "direct_kind": "same_steps",
        "status": status,
        "revision": "3f2a91c",
        "versions": "torch 2.15.0",
    } | columns
    if status != "ok":
        return found
    transfer = direct - (gap or 0.0)
    reference = None if gap is None else direct
    found |= {
        "transfer_accuracy": transfer,
        "direct_probe_accuracy": reference,
        "direct_accuracy": None if gap is None else direct + 0.01,
        "random_init_accuracy": random_init,
        "chance_accuracy": 0.1,
    }
    return found | results.gaps(probe(transfer), probe(reference), probe(random_init))


def probe(accuracy: float | None) -> Row:
    """The result of a probe with this accuracy, which may be impossible; empty for None."""
    return {} if accuracy is None else {
        "test_accuracy": accuracy, "test_loss": 1 - accuracy, "chance_accuracy": 0.1, "num_test": 0,
    }  # fmt: skip


def mixture_label(shares: Mapping[str, float]) -> str:
    return " + ".join(f"{name} {100 * share:.3g} %" for name, share in shares.items() if share > 0)


def two_views(seeds: Iterable[int] = (1, 2, 3), noise: float = 0.004) -> list[Row]:
    """An easy component and a hard one whose gap falls with its weight."""
    draws = np.random.default_rng(7)
    found = []
    for number, (weight, gap) in enumerate(HARD_GAPS.items()):
        design = {"trial": f"{number:012x}", "mixture": mixture_label({"both": 1 - weight, "hard": weight})}
        for seed in seeds:
            design["seed"] = seed
            easy = {"direct": 0.972, "gap": noise * draws.normal() / 4, "random_init": 0.85}
            hard = {"direct": 0.912, "gap": gap + noise * draws.normal(), "random_init": 0.607}
            found.append(row(component="both", weight=1 - weight, **easy, **design))
            found.append(row(component="hard", weight=weight, **hard, **design))
    return found


MIXTURES = (
    {"clothes": 0.5, "digits": 0.5, "kana": 0.0},
    {"clothes": 0.5, "digits": 0.0, "kana": 0.5},
    {"clothes": 1 / 3, "digits": 1 / 3, "kana": 1 / 3},
)
SEQUENTIAL = "clothes then digits then kana"


def three_components() -> list[Row]:
    """Three mixtures x two orderings x two widths x three seeds; the sequence costs `clothes` three points."""
    draws = np.random.default_rng(8)
    direct = {"clothes": 0.86, "digits": 0.975, "kana": 0.90}
    found = []
    for number, (ordering, width, shares) in enumerate(
        (o, w, m) for o in ("shuffled", SEQUENTIAL) for w in (0.5, 1.0) for m in MIXTURES
    ):
        design = {"trial": f"{number:012x}", "mixture": mixture_label(shares), "ordering": ordering, "width": width}
        for seed in (1, 2, 3):
            for component, weight in shares.items():
                gap = 0.09 if weight == 0 else 0.01
                gap += 0.03 if component == "clothes" and ordering == SEQUENTIAL else 0.0
                gap += 0.005 * draws.normal() + (0.01 if width == 0.5 else 0.0)
                accuracies = {"direct": direct[component], "gap": gap, "random_init": 0.7}
                found.append(row(component=component, weight=weight, seed=seed, **accuracies, **design))
    return found


COST = [
    Cost(
        kind="pretrain", device="cpu", stages=30, computed=24, asked=48, spent_s=7200.0, shared_s=3600.0, found_s=900.0
    ),
    Cost(kind="probe", device="cpu", stages=60, computed=60, asked=72, spent_s=360.0, shared_s=72.0, found_s=0.0),
]
STEPS = (0, 10, 100, 1000)


def curves_of(rows: Iterable[Row]) -> pd.DataFrame:
    """The trajectories of these rows: accuracy from 50 % to 80 % evenly, a signal that falls tenfold each time."""
    return pd.DataFrame(
        {name: found.get(name) for name in results.DESIGN}
        | {"step": step, "accuracy": 0.5 + 0.1 * number + 0.001 * found["seed"]}
        | {"saturation": 0.1**number, "predictability": 0.2 * number, "cka_direct": None}
        for found in rows
        for number, step in enumerate(STEPS)
    )


def plan_of(rows: list[Row], *, question: str = "Does it keep what it needs?", **changes: Any) -> dict[str, Any]:
    """The plan as JSON, as far as the report reads it."""
    trials = {}
    for found in rows:
        design = {
            "mixture": {},
            "mixture_label": found["mixture"],
            "label": f"{found['mixture']}, {found['ordering']}, {found['architecture']} x{found['width']:g}",
            "depth": None,
            "train_examples": None,
            **{k: found[k] for k in ("ordering", "architecture", "width", "representation", "steps")},
        }
        digest = f"{found['trial']}{'0' * 52}"
        trials.setdefault(found["trial"], {"digest": digest, "design": design, "cells": [], "stages": []})
    facts = {"dataset": "digits", "content": "9f2c41d07be3", "num_classes": 10, "num_train": 1200, "num_test": 597}
    return {
        "sweep": "planted",
        "question": question,
        "direct_kind": "same_steps",
        "protocol": "linear_probe",
        "components": dict.fromkeys((found["component"] for found in rows), facts),
        "trials": list(trials.values()),
    } | changes
