"""The tracker for MLflow: with a double of MLflow's client and, where MLflow is installed, with MLflow itself."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from compress.budget import Verdict
from compress.config import Config, MlflowConfig
from compress.errors import MissingExtra
from compress.trackers import Trackers, mlflow
from compress.trackers.mlflow import MLflow
from tests.budget.conftest import row

VARIABLES = ("MLFLOW_TRACKING_URI", *mlflow.SETTINGS, *mlflow.NO_TELEMETRY)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder. The environment is restored."""
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if name not in VARIABLES})
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "digits" / "now"
    folder.mkdir(parents=True)
    return folder


# --- with a double --------------------------------------------------------------------------------------------


@dataclass
class Store:
    """What the clients of one store have sent."""

    uris: list[str] = field(default_factory=list)
    experiments: dict[str, str | None] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int]] = field(default_factory=list)
    requests: int = 0  # with metrics
    tags: dict[str, str] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)


class Unknown(Exception):
    error_code = "RESOURCE_DOES_NOT_EXIST"


class Client:
    """The methods of MlflowClient that are used."""

    store: Store

    def __init__(self, uri: str) -> None:
        self.store.uris.append(uri)

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=name) if name in self.store.experiments else None

    def create_experiment(self, name: str, artifacts: str | None) -> str:
        self.store.experiments[name] = artifacts
        return name

    def create_run(self, experiment: str, run_name: str, tags: dict[str, str]) -> Any:
        self.store.runs.append(f"{experiment}/{run_name}/{len(self.store.runs)}")
        self.store.tags.update(tags)
        return SimpleNamespace(info=SimpleNamespace(run_id=self.store.runs[-1]))

    def get_run(self, run_id: str) -> Any:
        if run_id not in self.store.runs:
            raise Unknown
        data = SimpleNamespace(metrics={key: value for key, value, _ in self.store.metrics})
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id), data=data)

    def get_metric_history(self, run_id: str, wanted: str) -> list[Any]:
        return [SimpleNamespace(step=step) for key, _, step in self.store.metrics if key == wanted]

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        assert run_id == self.store.runs[-1] and len(params) <= 100 and len(metrics) <= 1000
        self.store.parameters.update(params)
        self.store.requests += bool(metrics)
        self.store.metrics += [(key, value, step) for key, value, _, step in metrics]

    def log_artifact(self, run_id: str, path: str) -> None:
        self.store.artifacts.append(Path(path).name)

    def log_artifacts(self, run_id: str, path: str, name: str) -> None:
        self.store.artifacts.append(f"{name}/")

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self.store.tags[key] = value

    def set_terminated(self, run_id: str, status: str) -> None:
        self.store.states.append(status)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    parts: dict[str, dict[str, Any]] = {
        "mlflow.tracking": {"MlflowClient": Client},
        "mlflow.exceptions": {"MlflowException": Unknown},
        "mlflow.entities": {"Metric": lambda *values: values, "Param": lambda *values: values},
    }
    for name, content in parts.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    monkeypatch.setattr(mlflow, "find_spec", lambda name: True)
    Client.store = Store()
    return Client.store


def config(**keys: str) -> Config:
    return Config(recipe_name="digits", mlflow=MlflowConfig(**keys))


def begun(folder: Path, **keys: str) -> MLflow:
    tracker = MLflow()
    tracker.start(config(**keys), folder)
    return tracker


def test_without_the_package_the_remedy_is_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"^trackers=mlflow: .*: pip install -e '.\[mlflow\]'"):
        MLflow()


def test_a_whole_run(store: Store, folder: Path) -> None:
    tracker = begun(folder)
    tracker.row(row("load"))
    tracker.stage("train")
    tracker.metrics("train", 10, {"loss": 2.5, "learning_rate": 0.1})
    tracker.row(row("train", "onnxruntime", "int8", accuracy=0.75))
    (folder / "pruned").mkdir()
    tracker.artifact(folder / "pruned")
    tracker.artifact(folder / "report.html")
    tracker.finish(Verdict(()))
    assert store.parameters["recipe_name"] == "digits"
    assert {("torch.fp32.accuracy", 0.9, 0), ("train/loss", 2.5, 10), ("onnxruntime.int8.accuracy", 0.75, 1)} <= set(
        store.metrics
    )
    assert store.artifacts == ["pruned/", "report.html"]
    assert store.tags == {"folder": str(folder), "verdict": "met"} and store.states == ["FINISHED"]
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == os.environ["DO_NOT_TRACK"] == "true"


def test_the_default_is_a_database_with_artifacts_beside_it(store: Store, folder: Path, tmp_path: Path) -> None:
    begun(folder)
    assert store.uris == [f"sqlite:///{tmp_path}/outputs/mlflow.db"]
    assert store.experiments == {"digits": f"file://{tmp_path}/outputs/mlflow-artifacts/digits"}


def test_the_server_of_the_environment_and_that_of_the_configuration(store: Store, folder: Path) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = "http://from.environment"
    begun(folder)
    begun(folder, tracking_uri="http://from.config", experiment="mine")
    assert store.uris == ["http://from.environment", "http://from.config"]
    assert store.experiments == {"digits": None, "mine": None}


def test_points_are_sent_together(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = begun(folder)
    for step in range(1, 51):
        tracker.metrics("train", step, {"loss": 1.0})
    assert store.requests == 0
    monkeypatch.setattr(mlflow, "EVERY", 0.0)
    tracker.metrics("train", 51, {"loss": 1.0})
    assert store.requests == 1 and len(store.metrics) == 51


@pytest.mark.parametrize(("error", "state"), [(KeyboardInterrupt(), "KILLED"), (ValueError(), "FAILED")])
def test_an_interrupted_run_continues_and_no_step_is_sent_twice(
    error: BaseException, state: str, store: Store, folder: Path
) -> None:
    tracker = begun(folder)
    tracker.metrics("train", 10, {"loss": 2.0})
    tracker.stop(error)
    again = begun(folder)
    for step in (10, 20):
        again.metrics("train", step, {"loss": 2.0})
    again.finish(Verdict(()))
    assert len(store.runs) == 1 and store.states == [state, "RUNNING", "FINISHED"]
    assert store.metrics == [("train/loss", 2.0, 10), ("train/loss", 2.0, 20)]


def test_a_run_that_the_store_does_not_know_is_a_new_one(store: Store, folder: Path) -> None:
    (folder / mlflow.RECORD).write_text(json.dumps({"run_id": "deleted"}))
    begun(folder)
    assert len(store.runs) == 1 and json.loads((folder / mlflow.RECORD).read_text()) == {"run_id": store.runs[0]}


# --- with MLflow itself ---------------------------------------------------------------------------------------


def test_a_run_in_a_database(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    first = begun(folder)
    first.metrics("train", 10, {"loss": 2.5})
    first.stop(KeyboardInterrupt())
    tracker = begun(folder)
    for step in (10, 20):
        tracker.metrics("train", step, {"loss": 2.5})
    tracker.row(row("load"))
    (folder / "report.html").write_text("report")
    tracker.artifact(folder / "report.html")
    tracker.finish(Verdict(()))
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    experiment = client.get_experiment_by_name("digits")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.tags["verdict"] == "met"
    assert run.data.metrics["torch.fp32.accuracy"] == 0.9 and run.data.params["seed"] == "0"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == [10, 20]
    assert [each.path for each in client.list_artifacts(run.info.run_id)] == ["report.html"]
    assert (tmp_path / "outputs/mlflow-artifacts/digits" / run.info.run_id / "artifacts/report.html").exists()


@pytest.mark.parametrize("listens", [False, True], ids=["down", "silent"])
def test_a_server_that_does_not_answer_is_reported_once(
    listens: bool, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setitem(mlflow.SETTINGS, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        trackers, before = Trackers([MLflow()]), time.monotonic()
        trackers.start(config(tracking_uri=f"http://127.0.0.1:{server.getsockname()[1]}"), folder)
        trackers.stage("train")
        trackers.row(row("train"))
        trackers.finish(Verdict(()))
        assert time.monotonic() - before < 3 * mlflow.REQUEST
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage()[:22] for record in warnings if record.name == "compress.trackers"] == [
        "tracker MLflow failed "
    ]
