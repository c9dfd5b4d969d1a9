"""Results tables with planted effects, of which every verdict is known."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from orchestrator import results

Row = dict[str, Any]
SEEDS = (1, 2, 3, 4, 5)
NOISE = 0.002  # standard deviation over seeds, a fifth of a point


class Planted:
    """Collects rows whose means are planted; every number has noise of its own seed."""

    def __init__(self, seeds: Iterable[int] = SEEDS, noise: float = NOISE, start: int = 0) -> None:
        self.seeds, self.noise = tuple(seeds), noise
        self.rows: list[Row] = []
        self._draws = np.random.default_rng(start)
        self._direct: dict[Any, float] = {}

    def add(self, *, transfer: float, direct: float = 0.9, **columns: Any) -> Planted:
        """A row for every seed, its accuracies with noise; rows of a component and direct accuracy share a baseline."""
        for seed in self.seeds:
            key = (columns.get("component", "hard"), direct, columns.get("shots"), seed)
            reference = self._direct.setdefault(key, self._noisy(direct))
            noisy = {
                name: self._noisy(value) if name.endswith("_accuracy") and value is not None else value
                for name, value in columns.items()
            }
            self.rows.append(row(transfer=self._noisy(transfer), direct=reference, seed=seed, **noisy))
        return self

    def _noisy(self, value: float) -> float:
        return float(value + self.noise * self._draws.normal())

    def table(self) -> pd.DataFrame:
        return results.table(self.rows)


def row(*, transfer: float, direct: float | None = 0.9, **columns: Any) -> Row:
    """A valid linear-probe row of a single network, with what `columns` change."""
    found: Row = {
        "sweep": "planted",
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
        "primary": True,
        "direct_kind": "same_examples",
        "status": "ok",
        "transfer_accuracy": transfer,
        "direct_probe_accuracy": direct,
        "random_init_accuracy": 0.5,
        "chance_accuracy": 0.1,
    } | columns
    design = ("architecture", "width", "representation", "ordering", "mixture", "steps", "train_examples", "training")
    found.setdefault("trial", "|".join(str(found.get(name)) for name in design))
    if found.get("invalid") is None and direct is not None:
        found["gap"] = direct - transfer
        found["error_ratio"] = (1 - transfer) / (1 - direct) if direct < 1 else None
    return found


def climbed(
    accuracies: Mapping[str, float | None], *, direct: float = 0.9, weight: float = 0.5, **planted: Any
) -> pd.DataFrame:
    """A table with the rungs of a ladder: by rung, its accuracy; a rung that is None or absent was not measured."""
    found = Planted(**planted)
    design: Row = {"weight": weight, "direct": direct}
    head = accuracies.get("head")
    for protocol in ("linear_probe", "head_repair", "mlp_probe", "ntk_probe"):
        if (accuracy := accuracies.get(protocol)) is not None:
            found.add(
                transfer=accuracy, protocol=protocol, head_accuracy=head, primary=protocol == "linear_probe", **design
            )
    if (few := accuracies.get("few-shot fine-tuning")) is not None:
        found.add(transfer=few, protocol="finetune", shots=10, primary=False, **design)
    if (full := accuracies.get("full fine-tuning")) is not None:
        found.add(transfer=full, protocol="lp_ft", primary=False, **design)
    if (several := accuracies.get("probe of several networks")) is not None:
        found.add(transfer=several, representation="cat:4", **design)
    return found.table()


def noise(start: int, seeds: int = 5) -> pd.DataFrame:
    """A table that varies nearly everything, in which nothing has any effect and nothing is lost."""
    found = Planted(range(seeds), noise=0.01, start=start)
    draws = np.random.default_rng(10_000 + start)
    mixtures = {"a": (0.5, 0.5), "b": (0.9, 0.1)}
    shared = itertools.product(mixtures.items(), ("shuffled", "blocked"), ("single", "cat:2"))
    for (mixture, weights), ordering, representation in shared:
        for component, weight in zip(("one", "two"), weights, strict=True):
            found.add(
                transfer=0.9,
                component=component,
                weight=weight,
                mixture=mixture,
                ordering=ordering,
                representation=representation,
            )
    for table_row in found.rows:
        table_row["direct_probe_accuracy"] = 0.9 + 0.01 * draws.normal()
        table_row["gap"] = table_row["direct_probe_accuracy"] - table_row["transfer_accuracy"]
        table_row["predictability_ceiling"] = 0.8 + 0.02 * draws.normal()
        table_row["member_predictability"] = 0.8 + 0.02 * draws.normal()
    return found.table()


def almost(start: int) -> pd.DataFrame:
    """A table in which C2, C3, C5a, C5b and C6 each lack one thing that they need, and have all the others.

    There are gaps, but they vanish with scale; one architecture has none; fine-tuning on few examples closes them;
    exactly half is retained; weight decay costs effective rank and no transfer.
    """
    found = Planted(noise=0.01, start=start)
    draws = np.random.default_rng(20_000 + start)
    for width in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0):
        found.add(transfer=0.9 - 0.4 * (4 * width) ** -1.5, component="scaled", sweep="scale", width=width)
    for architecture, gap in (("mlp", 0.2), ("cnn", 0.0)):
        found.add(transfer=0.9 - gap, component="built", sweep="architecture", architecture=architecture)
    for steps in (100, 1000):
        found.add(transfer=0.7, component="long", sweep="steps", steps=steps)
    few_shot = {"protocol": "finetune", "shots": 10, "primary": False}
    found.add(transfer=0.9, component="long", sweep="steps", steps=1000, **few_shot)
    found.add(transfer=0.7, component="crowded", sweep="trajectory", saturation_step=200, final_saturation=0.01)
    for table_row in found.rows[-5:]:
        table_row["retention"] = 0.5 + 0.05 * draws.normal()
    for decay, rank in ((0, 40), (0.01, 20)):
        training = {"training": f"weight_decay {decay:g}", "sweep": "decay"}
        found.add(transfer=0.7, component="target", weight=0.0, **training)
        found.add(transfer=0.8, component="source", weight=1.0, head_accuracy=0.8, **training)
        for table_row in found.rows[-10:]:
            table_row["effective_rank"] = rank + draws.normal()
    return found.table()
