"""The study on plain Ray Tune: one trial per mixture, ordering, width and seed, logged to MLflow by Ray's own callback.

    python -m benchmarks.peers.ray_tune OUT.json [--steps 600] [--seeds 3] [--mixtures 3] [--train-examples 5000]

Actors are reused, so that imports and datasets are paid once per worker. Every trial trains its own baselines.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # no CSV and no TensorBoard files beside MLflow
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # workers use this environment, not a copy of the folder

import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback

from benchmarks.peers.study import Study, answer


class Cell(tune.Trainable):  # type: ignore[misc]
    """One cell of the study, in one step."""

    def setup(self, config: dict[str, Any], study: Study) -> None:
        import torch

        torch.set_num_threads(1)
        self._study = study

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        from benchmarks.peers.cell import measure

        rows = measure(self.config, self._study)
        metrics = {f"{what}/{row['component']}": row[what] for row in rows for what in ("transfer", "direct")}
        gaps = {f"gap/{row['component']}": row["direct"] - row["transfer"] for row in rows}
        return {"done": True, "rows": rows, **metrics, **gaps}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a trial is one step."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""


def run(study: Study, folder: Path) -> list[dict[str, Any]]:
    """The rows of the whole study; the seconds of its trial are in each."""
    cells = study.cells()
    axes = {name: tune.grid_search(list(dict.fromkeys(cell[name] for cell in cells))) for name in cells[0]}
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    callback = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder}/mlflow.db", experiment_name="study")
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(Cell, study=study), {"cpu": 1}),
        param_space=axes,
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(name="study", storage_path=str(folder), callbacks=[callback], verbose=0),
    )
    results = tuner.fit()
    if results.errors:
        raise results.errors[0]
    return [row | {"seconds": result.metrics["time_total_s"]} for result in results for row in result.metrics["rows"]]


def main() -> None:
    answer(__doc__ or "", run)


if __name__ == "__main__":
    main()
