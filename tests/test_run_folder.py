"""Who works in a run folder, and what is left of a run that was killed."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from compress import run_folder
from compress.errors import InUse, UserError
from compress.measurement.latency import LOCK
from compress.report.run_reader import read_run
from compress.run_folder import FAILED, FINISHED, INTERRUPTED, RUNNING, choose, hold, of_sweep, read, status

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "_claims", {})


def work(folder: Path, text: str = "config", error: BaseException | None = None, stage: str = "prune") -> None:
    with hold(folder, text) as state:
        state.begin(stage)
        (folder / "ledger.jsonl").write_text("{}\n")
        if error is not None:
            raise error


def in_another_process(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    script = f"import os\nfrom pathlib import Path\nfrom compress.run_folder import *\nfolder = Path({str(folder)!r})\n"
    return subprocess.run(
        [sys.executable, "-c", script + code], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )


def killed(folder: Path, text: str = "config") -> None:
    code = f"""
import tempfile
with hold(folder, {text!r}) as state:
    state.begin("finetune")
    tempfile.mkdtemp(prefix="compress-")
    row = '{{"stage": "load", "target": null, "precision": "fp32", "imgsz": 8, "macs": 1}}'
    (folder / "ledger.jsonl").write_text(row + '\\n{{"cut sh')
    os.kill(os.getpid(), 9)
"""
    assert in_another_process(folder, code).returncode == -signal.SIGKILL


def test_the_state_tells_how_it_ended(tmp_path: Path) -> None:
    with hold(tmp_path / "a", "config") as state:
        state.begin("prune")
        assert status(tmp_path / "a") == RUNNING
        told = read(tmp_path / "a")
        assert (told["schema_version"], told["stage"], told["status"]) == (1, "prune", "running")
        assert told["pid"] and told["host"] and told["since"]
    assert status(tmp_path / "a") == FINISHED
    for name, error, ended in (("b", KeyboardInterrupt(), INTERRUPTED), ("c", RuntimeError("of x"), FAILED)):
        with pytest.raises(type(error)):
            work(tmp_path / name, error=error)
        assert (status(tmp_path / name), read(tmp_path / name)["stage"]) == (ended, "prune")
    assert read(tmp_path / "c")["error"] == "of x"


def test_a_killed_run_is_seen_as_interrupted_and_leaves_nothing_in_the_temporary_folder(tmp_path: Path) -> None:
    def temporary() -> set[Path]:
        found = Path(tempfile.gettempdir()).glob("compress-*")
        return {path for path in found if not path.name.startswith(LOCK.name)}  # other processes may time

    before = temporary()
    killed(tmp_path / "a")
    assert read(tmp_path / "a")["status"] == RUNNING
    assert status(tmp_path / "a") == INTERRUPTED
    assert temporary() == before
    notes = " ".join(read_run(tmp_path / "a").notes)
    assert "in stage finetune" in notes and "cut short" in notes
    work(tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["ledger.jsonl", "state.json"]


def test_the_same_config_goes_on_in_the_newest_unfinished_folder(tmp_path: Path) -> None:
    killed(tmp_path / "2000-01-01_00-00-00")
    killed(tmp_path / "2000-01-02_00-00-00")
    killed(tmp_path / "2000-01-03_00-00-00", "another config")
    work(tmp_path / "2000-01-04_00-00-00")  # finished
    (tmp_path / "2000-01-05_00-00-00").mkdir()
    (tmp_path / "2000-01-05_00-00-00/state.json").write_text("{half")
    folder = choose(tmp_path, "config")
    assert folder.name == "2000-01-02_00-00-00"
    work(folder)
    assert choose(tmp_path, "config").name == "2000-01-01_00-00-00"
    assert choose(tmp_path, "a third").name > "2001"


def test_a_run_that_is_at_work_is_left_alone(tmp_path: Path) -> None:
    with hold(tmp_path / "a", "config") as state:
        state.begin("prune")
        ended = in_another_process(
            tmp_path, "print(choose(folder, 'config').name)\nhold(folder / 'a', 'config').__enter__()"
        )
        assert ended.stdout.strip() != "a"
        assert "InUse" in ended.stderr
        with pytest.raises(InUse):
            work(tmp_path / "a")
    assert read(tmp_path / "a")["status"] == FINISHED


def test_a_run_that_was_killed_before_its_first_stage_is_unfinished_too(tmp_path: Path) -> None:
    ended = in_another_process(tmp_path, "print(choose(folder, 'config').name, flush=True)\nos.kill(os.getpid(), 9)")
    folder = tmp_path / ended.stdout.strip()
    assert status(folder) == INTERRUPTED
    assert choose(tmp_path, "config") == folder


def test_two_runs_in_one_second_get_two_folders(tmp_path: Path) -> None:
    first, second = choose(tmp_path, "one"), choose(tmp_path, "two")
    assert first != second
    assert second.name > first.name


def test_what_an_interrupted_run_measured_is_measured_anew(tmp_path: Path) -> None:
    """No row of the ledger stands there twice, and none that was cut short."""
    killed(tmp_path / "a")
    with hold(tmp_path / "a", "config"):
        assert not (tmp_path / "a/ledger.jsonl").exists()


@pytest.mark.parametrize("name", ["finished", "of another config", "of an older version"])
def test_a_folder_with_another_run_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    work(folder, text="config" if name == "finished" else "another")
    if name == "of an older version":
        (folder / "state.json").unlink()
    with pytest.raises(UserError, match="use another folder"):
        work(folder)
    assert (folder / "ledger.jsonl").exists()


def test_a_refusal_before_any_work_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError), hold(tmp_path / "runs/a", "config"):
        raise UserError("key", "value", "remedy")
    with pytest.raises(UserError), hold(choose(tmp_path / "runs", "config"), "config"):
        raise UserError("key", "value", "remedy")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file")
    with pytest.raises(UserError, match="Not a directory"):
        choose(tmp_path / "outputs/digits", "config")
    with pytest.raises(UserError, match="Not a directory"):
        work(tmp_path / "outputs/digits/a")


def test_older_states_tell_nothing(tmp_path: Path) -> None:
    assert status(tmp_path) == ""
    (tmp_path / "state.json").write_text(json.dumps(["no object"]))
    assert status(tmp_path) == ""


def test_the_link_to_the_newest_run_is_for_folders_in_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "digits" / "first"
    folder.mkdir(parents=True)
    run_folder.link_latest(folder)
    for elsewhere in (Path("/run"), tmp_path / "run", tmp_path / "outputs" / "sweep" / "digits" / "0"):
        run_folder.link_latest(elsewhere)
    assert (tmp_path / "outputs" / "latest").resolve() == folder


def test_a_folder_on_nfs_is_locked_by_a_file_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = run_folder.fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(descriptor, operation)

    monkeypatch.setattr(run_folder.fcntl, "flock", flock)
    with hold(tmp_path / "a", "config"):
        monkeypatch.setattr(run_folder, "_claims", {})  # as in another process
        with pytest.raises(InUse), hold(tmp_path / "a", "config"):
            pass
        assert status(tmp_path / "a") == RUNNING
    assert status(tmp_path / "a") == FINISHED


def test_the_folder_of_a_sweep_is_continued_until_it_has_finished(tmp_path: Path) -> None:
    folder = choose(tmp_path, "sweep")
    with pytest.raises(KeyboardInterrupt), of_sweep(folder, "sweep"):
        assert status(folder) == RUNNING
        raise KeyboardInterrupt
    assert status(folder) == INTERRUPTED
    assert choose(tmp_path, "sweep") == folder
    with of_sweep(folder, "sweep"):
        pass
    assert status(folder) == FINISHED
    assert choose(tmp_path, "sweep") != folder
