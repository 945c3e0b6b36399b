from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from compress.budget import Verdict
from compress.config import Config
from compress.errors import UserError
from compress.trackers import Tracker, Trackers, load
from compress.trackers.log_lines import LogTracker
from compress.trackers.metrics_file import MetricsFile
from tests.budget.conftest import row
from tests.trackers import recording


@pytest.fixture
def events() -> Iterator[list[tuple[str, object]]]:
    recording.events.clear()
    yield recording.events
    recording.events.clear()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `run` of `a_run`, with one artifact."""
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/verdict.json").touch()
    return tmp_path / "run"


def a_run(trackers: Trackers | Tracker) -> None:
    trackers.start(Config(recipe_name="mine"), Path("run"))
    trackers.stage("prune")
    trackers.metrics("prune/round-1", 10, {"loss": 2.5})
    trackers.row(row("prune"))
    trackers.finish(Verdict((), (), {}))


WHOLE = [
    ("start", "mine"), ("stage", "prune"), ("prune/round-1", 10), ("row", "prune"), ("artifact", "verdict.json"),
    ("finish", True),
]  # fmt: skip


def test_events_reach_every_tracker_in_order(events: list[tuple[str, object]]) -> None:
    a_run(Trackers([recording.Recording(), Tracker(), recording.Recording()]))
    assert events == [event for event in WHOLE for _ in range(2)]


def test_one_that_raises_is_left_out_from_then_on_and_the_others_go_on(
    events: list[tuple[str, object]], caplog: pytest.LogCaptureFixture
) -> None:
    trackers = Trackers([recording.Broken(), recording.Recording()])
    a_run(trackers)
    trackers.row(row("finetune"))
    assert events == [*WHOLE, ("row", "finetune")]
    assert caplog.messages == [
        "tracker Broken failed and is removed; the run and metrics.jsonl go on: ConnectionError: no server"
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_run_is_not_held_up_by_trackers(error: type[BaseException]) -> None:
    class Stopped(Tracker):
        def stage(self, name: str) -> None:
            raise error

    with pytest.raises(error):
        Trackers([Stopped()]).stage("prune")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("bug")])
def test_a_run_that_ends_without_a_verdict_is_stopped(error: BaseException, events: list[tuple[str, object]]) -> None:
    with pytest.raises(type(error)), Trackers([recording.Recording()]) as trackers:
        trackers.start(Config(recipe_name="mine"), Path("run"))
        raise error
    assert events == [("start", "mine"), ("stop", type(error).__name__)]


def test_a_run_that_did_not_start_or_has_finished_is_not_stopped(events: list[tuple[str, object]]) -> None:
    with pytest.raises(ValueError), Trackers([recording.Recording()]):
        raise ValueError
    assert events == []
    with pytest.raises(ValueError), Trackers([recording.Recording()]) as trackers:
        a_run(trackers)
        raise ValueError
    assert events == WHOLE


def test_a_subclass_needs_only_the_events_it_wants(events: list[tuple[str, object]]) -> None:
    class Stages(Tracker):
        def stage(self, name: str) -> None:
            events.append(("stage", name))

    a_run(Stages())
    assert events == [("stage", "prune")]


def test_trackers_are_loaded_by_name_and_by_import_path(events: list[tuple[str, object]]) -> None:
    loaded = load(["log", "tests.trackers.recording.Recording"])
    assert [type(each) for each in loaded._trackers] == [MetricsFile, LogTracker, recording.Recording]
    a_run(loaded)
    assert events == [*WHOLE[:4], ("artifact", "metrics.jsonl"), *WHOLE[4:]]
    assert [type(each) for each in load([])._trackers] == [MetricsFile]


@pytest.mark.parametrize("name", ["wandb", "nowhere.Tracker", "tests.trackers.recording.events", "os.getcwd"])
def test_what_is_no_tracker_is_refused(name: str) -> None:
    with pytest.raises(UserError) as caught:
        load([name])
    assert (caught.value.key, caught.value.value) == ("trackers", name)


def test_a_name_that_is_unknown_lists_those_there_are() -> None:
    with pytest.raises(
        UserError, match=r"^trackers=wandb: choose from log, mlflow, tensorboard, or set an import path"
    ):
        load(["wandb"])
