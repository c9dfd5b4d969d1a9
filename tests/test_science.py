"""The science by the ordinary machinery: sweep files whose answers are known, planned, run and read like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from orchestrator import results
from orchestrator.analysis import claims, gaps, ladder
from orchestrator.prepare import prepare
from orchestrator.sweep import locate, read
from trainables.spec import TrajectorySpec
from trainables.store import Store
from trainables.trial import run_trial

# What an independent implementation measured of the two views: points lost by `hard`, by its weight.
HARD_GAPS = {0: 43.7, 0.02: 15.6, 0.2: 4.1}


def measured(folder: Path, sweep: str, *changes: str) -> tuple[pd.DataFrame, list[dict[str, object]]]:
    """The results table of a sweep, and the curves of its trajectories on `hard`."""
    plan, _ = prepare(read(locate(sweep), changes), print)
    store = Store(str(folder))
    curves = []
    for trial in plan.trials:
        run_trial(trial, store, device="cpu")
        for stage in trial.stages():
            if isinstance(stage, TrajectorySpec) and stage.component == plan.components.get("hard"):
                curves.append(store.get(stage.kind, stage.digest))
    rows = results.rows(json.loads(json.dumps(plan.as_json())), results.store_lookup(store), {})
    return results.table(rows), curves


@pytest.mark.slow
def test_a_feature_that_competes_is_acquired_early_lost_again_and_kept_with_its_weight(tmp_path):
    axes = "vary.mixture=[{both: 1}, {both: 0.98, hard: 0.02}, {both: 0.8, hard: 0.2}]"
    table, curves = measured(tmp_path, "s12-trajectory-saturation", axes, "seeds=2", "vary.training={}")
    hard = gaps.by_weight(table[table["component"] == "hard"])
    found = dict(zip(hard["weight"], 100 * hard["gap"].astype(float), strict=True))
    assert found == {weight: pytest.approx(gap, abs=5) for weight, gap in HARD_GAPS.items()}
    assert found[0] > found[0.02] > found[0.2] > 2
    alone = table[(table["component"] == "hard") & (table["weight"] == 0)]
    assert (alone["transfer_accuracy"] < alone["random_init_accuracy"] - 0.03).all()
    assert (alone["peak_step"] < 50).all()
    assert (alone["drop_from_peak"] > 0.1).all()
    assert (alone["final_saturation"] < 1 / 50).all()
    assert (alone["retention"] < 0.1).all()
    kept = table[(table["component"] == "hard") & (table["weight"] == 0.2)]
    assert (kept["retention"] > 0.6).all()
    assert all(curve["step"][0] == 0 and len(curve["accuracy"]) == 12 for curve in curves)


def test_networks_side_by_side_gain_nothing_where_training_is_convex(tmp_path):
    table, _ = measured(tmp_path, "s00-toy-threshold", "seeds=2", "pretrain.steps=300")
    accuracy = table.pivot_table(
        index=["mixture", "component", "seed"], columns="representation", values="transfer_accuracy"
    )
    gain = accuracy["cat:4"] - accuracy["single"]
    assert len(gain) == 8
    assert dict(table.groupby("representation")["probe_dimension"].unique().map(list)) == {"cat:4": [8], "single": [2]}
    assert (gain == 0).all()


@pytest.mark.slow
def test_the_ladder_tells_a_feature_that_is_unused_from_one_that_is_lost(tmp_path):
    changes = ("seeds=3", "transfer.protocols=[linear_probe, head_repair]", "transfer.l2=[0.01]")
    table, _ = measured(tmp_path, "s10-spurious-ladder", *changes)
    core = {one.design["width"]: one for one in ladder.ladder(table, margin=0.15) if one.component == "core"}
    assert core[4].failure == "unused"
    rungs = {width: {rung.name: rung for rung in one.rungs} for width, one in core.items()}
    assert all(rungs[width]["head"].outcome == "falls short" for width in core)
    assert rungs[1]["linear_probe"].outcome == rungs[1]["head_repair"].outcome == "falls short"


def test_every_claim_has_a_verdict_or_says_what_to_vary(tmp_path):
    changes = ("seeds=2", "pretrain.steps=60", "vary.mixture=[{both: 1}, {both: 0.8, hard: 0.2}]")
    table, _ = measured(tmp_path, "quickstart", *changes)
    found = claims.verdicts(table)
    assert {claim.id for claim in found} == set(claims.STATEMENTS)
    assert all(claim.sentence for claim in found)
