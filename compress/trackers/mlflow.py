"""Sends the events of a run to MLflow: a local database, or a tracking server.

The user's variables for MLflow (`MLFLOW_TRACKING_USERNAME`, …) apply. A request that fails raises an error after at
most REQUEST seconds and one repetition, and `Trackers` then removes this tracker."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock

from compress import atomic
from compress.budget import Verdict
from compress.config import Config
from compress.errors import MissingExtra
from compress.ledger import Row
from compress.trackers import values
from compress.trackers.tracker import Tracker

DEFAULT = "sqlite:///outputs/mlflow.db"
SQLITE = "sqlite:///"
ARTIFACTS = "mlflow-artifacts"  # folder of the artifacts, beside a SQLite file
RECORD = "mlflow.json"  # in the run folder: the identifier of the MLflow run, with which an interrupted run continues
REQUEST = 10  # seconds for one request
SETTINGS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(REQUEST), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
NO_TELEMETRY = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
EVERY = 5.0  # seconds between the requests with points of a curve
MOST_METRICS, MOST_PARAMETERS = 1000, 100  # in one request

log = logging.getLogger(__name__)


class MLflow(Tracker):
    """One MLflow run per run, in the experiment `mlflow.experiment` or the recipe's name: parameters, the curves, rows
    as metrics whose step is the number of the stage (0: `load`), artifacts, and the tag `verdict`.

    Raises MissingExtra without the package.
    """

    def __init__(self) -> None:
        if find_spec("mlflow") is None:
            raise MissingExtra("trackers", "mlflow", "mlflow")
        self._stages = 0  # begun
        self._metrics: list[Any] = []  # not yet sent
        self._sent = time.monotonic()
        self._logged: dict[str, int] = {}  # last step by key, before the run was interrupted

    def start(self, config: Config, folder: Path) -> None:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        os.environ.update(NO_TELEMETRY)  # before the import, which starts it
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "alembic"):  # which describe how the database is created
            logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # which warns before it repeats a request
        uri = config.mlflow.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT
        experiment, record = config.mlflow.experiment or config.recipe_name, folder / RECORD
        if uri.startswith(SQLITE):
            database = Path(uri.removeprefix(SQLITE)).absolute()
            database.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(database.with_suffix(".lock")):  # parallel runs would create the tables at the same time
                self._client = MlflowClient(f"{SQLITE}{database}")
                place = (database.parent / ARTIFACTS / experiment).as_uri()
                identifier = _experiment(self._client, experiment, place)
        else:
            self._client = MlflowClient(uri)
            identifier = _experiment(self._client, experiment, None)
        if not self._continue(record):
            run = self._client.create_run(identifier, run_name=folder.name, tags={"folder": str(folder.absolute())})
            self._run = run.info.run_id
            atomic.write(record, json.dumps({"run_id": self._run}))
        self._log_parameters(config)
        log.info("MLflow: run %s in experiment %s", self._run, experiment)

    def stage(self, name: str) -> None:
        self._stages += 1
        self._send()

    def metrics(self, training: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if step > self._logged.get(key := f"{training}/{name}", 0):
                self._add(key, value, step)
        if time.monotonic() - self._sent >= EVERY:
            self._send()

    def row(self, row: Row) -> None:
        for name, value in values.of_row(row).items():
            self._add(name, value, self._stages)
        self._send()

    def artifact(self, path: Path) -> None:
        if path.is_dir():
            self._client.log_artifacts(self._run, str(path), path.name)
        else:
            self._client.log_artifact(self._run, str(path))

    def finish(self, verdict: Verdict) -> None:
        self._send()
        self._client.set_tag(self._run, "verdict", values.verdict_word(verdict))
        self._client.set_terminated(self._run, "FINISHED")

    def stop(self, error: BaseException) -> None:
        self._send()
        self._client.set_terminated(self._run, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")

    def _continue(self, record: Path) -> bool:
        """Whether the folder holds an interrupted run that this store knows; it then becomes this tracker's run."""
        from mlflow.exceptions import MlflowException

        if not record.exists():
            return False
        try:
            run = self._client.get_run(json.loads(record.read_text())["run_id"])
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False  # deleted, or in another store
        self._run = run.info.run_id
        for key in run.data.metrics:
            if "/" in key:  # a curve, not a row
                self._logged[key] = max(point.step for point in self._client.get_metric_history(self._run, key))
        self._client.set_terminated(self._run, "RUNNING")
        return True

    def _log_parameters(self, config: Config) -> None:
        from mlflow.entities import Param

        parameters = [Param(name, value) for name, value in values.parameters(config).items()]
        for start in range(0, len(parameters), MOST_PARAMETERS):
            self._client.log_batch(self._run, params=parameters[start : start + MOST_PARAMETERS])

    def _add(self, key: str, value: float, step: int) -> None:
        from mlflow.entities import Metric

        self._metrics.append(Metric(key, value, int(1000 * time.time()), step))

    def _send(self) -> None:
        for start in range(0, len(self._metrics), MOST_METRICS):
            self._client.log_batch(self._run, metrics=self._metrics[start : start + MOST_METRICS])
        self._metrics.clear()
        self._sent = time.monotonic()


def _experiment(client: Any, name: str, artifacts: str | None) -> str:
    """The identifier of an experiment, which is created if there is none. `artifacts`: URI of the folder for its
    artifacts; None: the server's choice."""
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(name)
    if known is None:
        with suppress(MlflowException):  # another run has created it meanwhile
            return str(client.create_experiment(name, artifacts))
        known = client.get_experiment_by_name(name)
    return str(known.experiment_id)
