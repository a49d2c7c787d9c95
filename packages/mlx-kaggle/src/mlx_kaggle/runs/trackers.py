"""The trackers: one run in MLflow, Weights & Biases or trackio, each behind the same functions."""

# The trackers are extras.
# pyright: reportMissingImports=false

import logging
import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from mlx_kaggle.runs.records import RunRecord

ARTIFACTS = ("report.html", "summary.json", "config.yaml")


class Tracker(Protocol):
    """One run in a tracker; whatever it raises is reported, and ends only the mirror."""

    id: str
    """Names the run, to continue it."""

    def __init__(self, record: RunRecord, id: str | None) -> None:
        """Start a run, or continue that with `id`; send the parameters."""
        ...

    @staticmethod
    def destination(record: RunRecord) -> str:
        """Return where runs are kept; another destination gets a run of its own."""
        ...

    @classmethod
    def knows(cls, record: RunRecord, id: str) -> bool:
        """Whether the run with `id` is still there."""
        ...

    def log(self, metrics: Mapping[str, float], step: int, when: float) -> None:
        """Send "NETWORK/NAME" values of an epoch, which ended at a time in Unix seconds."""
        ...

    def finish(self, record: RunRecord, metrics: Mapping[str, float]) -> None:
        """Send final scores, tags and files of a finished run, and close it."""
        ...

    def close(self) -> None:
        """Close a run that did not finish, and may be continued."""
        ...


class MlflowTracker:
    """A run of MLflow, in the experiment of its table.

    The store is `mlruns.db` (SQLite) beside the run folder, with the artifacts in `mlartifacts`;
    or that of MLFLOW_TRACKING_URI.
    """

    def __init__(self, record: RunRecord, id: str | None):
        # Of this process: without it, MLflow sends statistics of its use to its makers.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        parent = record.path.resolve().parent
        local = None if os.environ.get("MLFLOW_TRACKING_URI") else parent / "mlartifacts"
        self._client = MlflowClient(self.destination(record))
        if id:
            self._client.update_run(id, status="RUNNING")
        else:
            run = self._client.create_run(self._experiment(record, local), run_name=_name(record))
            id = run.info.run_id
        self.id = str(id)
        # Values are cut at 6,000 characters by MLflow itself; a batch has at most 100 parameters.
        params = [Param(_plain(key), text) for key, text in _parameters(record).items()]
        for at in range(0, len(params), 100):
            self._client.log_batch(self.id, params=params[at : at + 100])

    @staticmethod
    def destination(record: RunRecord) -> str:
        """Return the address of the store."""
        default = f"sqlite:///{record.path.resolve().parent / 'mlruns.db'}"
        return os.environ.get("MLFLOW_TRACKING_URI") or default

    @classmethod
    def knows(cls, record: RunRecord, id: str) -> bool:
        """Whether the run is there and not deleted."""
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            found = MlflowClient(cls.destination(record)).get_run(id)
        except MlflowException:
            return False
        return found.info.lifecycle_stage == "active"

    def _experiment(self, record: RunRecord, local: Path | None) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or record.data
        if found := self._client.get_experiment_by_name(name):
            return found.experiment_id
        return self._client.create_experiment(name, local.as_uri() if local else None)

    def log(self, metrics: Mapping[str, float], step: int, when: float) -> None:
        """Send the values of an epoch."""
        from mlflow.entities import Metric

        values = [Metric(_plain(key), each, int(when * 1000), step)
                  for key, each in metrics.items()]  # fmt: skip
        self._client.log_batch(self.id, metrics=values)

    def finish(self, record: RunRecord, metrics: Mapping[str, float]) -> None:
        """Send the outcome, and close the run."""
        self.log(metrics, 0, time.time())
        for key, text in _tags(record).items():
            self._client.set_tag(self.id, key, text)
        for name in ARTIFACTS:
            if (record.path / name).is_file():
                self._client.log_artifact(self.id, str(record.path / name))
        self._client.set_terminated(self.id, "FINISHED")

    def close(self) -> None:
        """Close a run that may be continued."""
        self._client.set_terminated(self.id, "KILLED")


class WandbTracker:
    """A run of Weights & Biases, by its own rules on login, project and WANDB_MODE=offline.

    Its local files are in `wandb` beside the run folder.
    """

    def __init__(self, record: RunRecord, id: str | None):
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _slug(record.data),
            name=_name(record),
            id=id or uuid4().hex[:8],
            resume="allow",
            dir=str(record.path.resolve().parent),
            config=_parameters(record),
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        self.id = self._run.id

    @staticmethod
    def destination(record: RunRecord) -> str:
        """Return the server and the mode."""
        server = os.environ.get("WANDB_BASE_URL") or "the default server"
        mode = " offline" if os.environ.get("WANDB_MODE") == "offline" else ""
        return f"{server}{mode}"

    @classmethod
    def knows(cls, record: RunRecord, id: str) -> bool:
        """Whether the run is there: yes, as far as is known here."""
        return True

    def log(self, metrics: Mapping[str, float], step: int, when: float) -> None:
        """Send the values of an epoch."""
        # An axis for each network: the steps of a run of wandb can only grow.
        network = next(iter(metrics)).partition("/")[0]
        self._run.define_metric(f"{network}/*", step_metric=f"{network}/epoch")
        self._run.log({f"{network}/epoch": step, **metrics})

    def finish(self, record: RunRecord, metrics: Mapping[str, float]) -> None:
        """Send the outcome, and close the run."""
        from wandb import Artifact

        self._run.summary.update({**metrics, **_tags(record)})
        files = Artifact(f"run-{self.id}", type="run")
        for name in ARTIFACTS:
            if (record.path / name).is_file():
                files.add_file(str(record.path / name))
        self._run.log_artifact(files)
        self._run.finish()

    def close(self) -> None:
        """Close a run that may be continued."""
        self._run.finish(exit_code=1)


class TrackioTracker:
    """A run of trackio, which keeps it in TRACKIO_DIR, or on the Space that it is told."""

    def __init__(self, record: RunRecord, id: str | None):
        import trackio

        self.id = id or f"{_name(record)}-{int(time.time()):x}"
        self._trackio = trackio
        trackio.init(
            project=os.environ.get("TRACKIO_PROJECT") or _slug(record.data),
            name=self.id,
            config={**_parameters(record), **(_tags(record) if record.finished else {})},
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    @staticmethod
    def destination(record: RunRecord) -> str:
        """Return the folder or Space."""
        return os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_DIR") or "its folder"

    @classmethod
    def knows(cls, record: RunRecord, id: str) -> bool:
        """Whether the run is there: yes, as far as is known here."""
        return True

    def log(self, metrics: Mapping[str, float], step: int, when: float) -> None:
        """Send the values of an epoch."""
        self._trackio.log(dict(metrics), step=step)

    def finish(self, record: RunRecord, metrics: Mapping[str, float]) -> None:
        """Send the outcome, and close the run."""
        self._trackio.log({**metrics, **_tags(record)})
        for name in ARTIFACTS:
            if (record.path / name).is_file():
                self._trackio.log_artifact(record.path / name, _slug(f"{self.id}-{name}"))
        self._trackio.finish()

    def close(self) -> None:
        """Close a run that may be continued."""
        self._trackio.finish()


TRACKERS: dict[str, type[Tracker]] = {
    "mlflow": MlflowTracker,
    "wandb": WandbTracker,
    "trackio": TrackioTracker,
}


def final_metrics(record: RunRecord) -> dict[str, float]:
    """Return the finite scores of a finished run, of its folds, its members and their weights."""
    found = {
        "score": record.score,
        "standard error": record.standard_error,
        "seconds": record.summary["seconds"],
        **{f"scores/{name}": each for name, each in record.summary["scores"]["mlx-kaggle"].items()},
        **{f"folds/{at}": each for at, each in enumerate(record.fold_scores)},
    }
    for name, each in record.summary["members"].items():
        found |= {f"members/{name}": each["score"], f"weights/{name}": each["weight"]}
    return {key: each for key, each in found.items() if each is not None and math.isfinite(each)}


def _name(record: RunRecord) -> str:
    return record.path.resolve().name


def _parameters(record: RunRecord) -> dict[str, str]:
    return {key: str(value) for key, value in record.config.items()}


def _tags(record: RunRecord) -> dict[str, str]:
    return {
        "data": record.data,
        "metric": record.metric,
        "preset": str(record.config.get("preset", "ensemble")),
        "answer": record.answer,
        "answer note": record.summary["answer"],
        "folder": str(record.path.resolve()),
    }


def _plain(key: str) -> str:
    """Return a key that MLflow accepts."""
    return re.sub(r"[^\w\-./ :]", "_", key)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:100]
