"""Metric writers of experiment trackers; each needs its own library (extras `wandb`, `mlflow`)."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtag.config import serialization
from jaxtag.errors import UserError
from jaxtag.storage.paths import is_store
from jaxtag.training.metric_writer import MetricWriter, RunInfo


class WandbWriter(MetricWriter):
    """Weights & Biases. Its own variables apply: WANDB_MODE=offline, WANDB_PROJECT, ….

    A resumed run goes on in the same W&B run: the identifier is kept in `wandb_run_id`.
    """

    def __init__(self) -> None:
        self._run: Any = None

    def open(self, run: RunInfo) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(_advice("wandb", error)) from error
        id_file = run.workdir / "wandb_run_id"
        run_id = id_file.read_text().strip() if id_file.exists() else None
        self._run = wandb.init(
            dir=None if is_store(run.workdir) else str(run.workdir),
            name=run.workdir.name,
            id=run_id,
            resume="allow",
            config=serialization.to_dict(run.config),
        )
        id_file.write_text(self._run.id)

    def write_scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        self._run.log({f"{split}/{name}": float(v) for name, v in values.items()}, step=step)

    def write_image(self, step: int, name: str, image: np.ndarray, caption: str) -> None:
        import wandb

        self._run.log({name: wandb.Image(image, caption=caption)}, step=step)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


class MlflowWriter(MetricWriter):
    """MLflow. Its own variables apply: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, ….

    Without a tracking URI, files go to `mlruns/` of the work directory. A resumed run goes on in
    the same MLflow run: the identifier is kept in `mlflow_run_id`.
    """

    def __init__(self) -> None:
        self._client: Any = None
        self._run_id = ""

    def open(self, run: RunInfo) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise UserError(_advice("mlflow", error)) from error
        if not mlflow.environment_variables.MLFLOW_TRACKING_URI.get():
            if is_store(run.workdir):
                raise UserError(
                    f"config.metric_writers: mlflow keeps no files in {run.workdir}: set "
                    "MLFLOW_TRACKING_URI"
                )
            # Databases need all of mlflow, whose releases refuse the protobuf that jaxtag runs on.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            mlflow.set_tracking_uri((run.workdir / "mlruns").resolve().as_uri())
        id_file = run.workdir / "mlflow_run_id"
        run_id = id_file.read_text().strip() if id_file.exists() else None
        active = mlflow.start_run(run_id=run_id, run_name=None if run_id else run.workdir.name)
        self._client, self._run_id = mlflow, active.info.run_id
        id_file.write_text(self._run_id)
        if run_id is None:
            mlflow.log_dict(serialization.to_dict(run.config), "config.json")

    def write_scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        # MLflow allows no @ in the name of a metric.
        metrics = {f"{split}/{name.replace('@', '_at_')}": float(v) for name, v in values.items()}
        self._client.log_metrics(metrics, step=step)

    def write_image(self, step: int, name: str, image: np.ndarray, caption: str) -> None:
        del caption
        self._client.log_image(image, key=name.replace("/", "_"), step=step)

    def close(self) -> None:
        if self._client is not None:
            self._client.end_run()


def _advice(package: str, error: ImportError) -> str:
    return f"config.metric_writers: {error}; install it with pip install 'jaxtag[{package}]'"
