"""Launchers: what is checked before a sweep starts, and on the machine of a point."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from compress import launchers
from compress.config import CONF
from compress.errors import MissingExtra, UserError
from compress.host import usable_threads
from compress.launchers import Origin, check, connect, divide_threads

ROOT = Path(__file__).parents[1]


def composed(launcher: str, sweeper: str = "", **keys: Any) -> DictConfig:
    """A configuration with the node `hydra` of a launcher's file."""
    node = OmegaConf.load(CONF / "hydra" / "launcher" / f"{launcher}.yaml")
    hydra: dict[str, Any] = {"launcher": node, "sweeper": {"_target_": sweeper or "hydra._internal.Basic"}}
    hydra["job"] = {"config": {"override_dirname": {"exclude_keys": ["recipe"]}}}
    choices = {"hydra/launcher": launcher, "hydra/sweeper": "optuna"}
    hydra |= {"sweep": {"dir": "sweep"}, "runtime": {"choices": choices}}
    return OmegaConf.create({"hydra": hydra, "threads": usable_threads()} | keys)


@pytest.mark.parametrize(
    ("launcher", "extra"),
    [("joblib", "joblib"), ("ray", "ray"), ("submitit_local", "slurm"), ("submitit_slurm", "slurm")],
)
def test_a_launcher_that_is_not_installed_names_its_extra(
    launcher: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launchers, "_installed", lambda module: False)
    with pytest.raises(MissingExtra, match=rf"hydra/launcher={launcher}: .*-launcher` is not.*\[{extra}\]"):
        check(composed(launcher).hydra)


def test_a_search_without_optuna_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    node = composed("joblib", "hydra_plugins.compress_search.OptunaSweeper").hydra
    monkeypatch.setattr(launchers, "_installed", lambda module: module != "optuna")
    with pytest.raises(MissingExtra, match=r"hydra/sweeper=optuna.*\[optuna\]"):
        check(node)
    monkeypatch.setattr(launchers, "_installed", lambda module: True)
    check(node)


def test_slurm_needs_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launchers, "_installed", lambda module: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch"):
        check(composed("submitit_slurm").hydra)
    (tmp_path / "sbatch").touch(mode=0o755)
    check(composed("submitit_slurm").hydra)


@pytest.mark.parametrize(
    ("jobs", "words", "threads", "expected"),
    [
        (None, [], 8, ["threads=1", "hydra.launcher.n_jobs=8"]),
        (2, ["hydra.launcher.n_jobs=2"], 8, ["threads=4", "hydra.launcher.n_jobs=2"]),
        (16, ["hydra.launcher.n_jobs=16"], 8, ["threads=1", "hydra.launcher.n_jobs=16"]),
        (None, ["threads=3"], 3, ["hydra.launcher.n_jobs=2"]),
        (None, ["threads=8"], 8, ["hydra.launcher.n_jobs=1"]),
        (2, ["hydra.launcher.n_jobs=2", "threads=2"], 2, []),
        (None, ["threads=1,2"], 8, ["hydra.launcher.n_jobs=1"]),
    ],
)
def test_joblib_divides_the_cpus(
    jobs: int | None, words: list[str], threads: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launchers, "usable_threads", lambda: 8)
    config = composed("joblib", threads=threads)
    config.hydra.launcher.n_jobs = jobs
    names = ["hydra.job.config.override_dirname.exclude_keys=[recipe,threads]"]
    assert divide_threads(config, words) == expected + (names if expected[:1] and "threads" in expected[0][:7] else [])
    assert divide_threads(composed("ray", threads=8), words) == []


def test_a_ray_cluster_that_does_not_answer_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
    config = composed("ray")
    config.hydra.launcher.ray.init.address = address
    with pytest.raises(UserError, match=f"ray.init.address={address}: no Ray cluster answers there"):
        connect(config.hydra)


@pytest.mark.parametrize("answer", [b"HTTP/1.0 400 Bad request syntax\r\n", b""])
def test_another_service_at_the_address_of_a_cluster_is_one_error(answer: bytes) -> None:
    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        connection.recv(100)
        connection.sendall(answer)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=[server])
        thread.start()
        config, address = composed("ray"), f"127.0.0.1:{server.getsockname()[1]}"
        config.hydra.launcher.ray.init.address = address
        with pytest.raises(UserError, match=rf"{address}: no Ray cluster answers there \(another service does\)"):
            connect(config.hydra)
        thread.join()


def test_a_lost_worker_is_told_from_an_error_of_a_point() -> None:
    lost = type("WorkerCrashedError", (type("RayError", (Exception,), {"__module__": "ray.exceptions"}),), {})
    message = launchers.lost_worker(lost("The worker died\nunexpectedly."))
    assert message is not None and message.startswith("hydra/launcher: a worker ended before its point did (The worker")
    assert "\n" not in message
    raised = type("RayTaskError", (*lost.__mro__[1:2],), {"__module__": "ray.exceptions"})
    assert launchers.lost_worker(raised("of the point")) is None
    assert launchers.lost_worker(RuntimeError("other")) is None


def test_the_process_of_the_command_knows_itself_and_a_worker_enters_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").touch()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    origin = Origin()
    assert origin.here
    code = "import os, pickle, sys\nfrom pathlib import Path\norigin = pickle.load(sys.stdin.buffer)\n"
    code += "assert not origin.here\norigin.enter(Path(sys.argv[1]))\nprint(os.getcwd())"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "sweep")], cwd=tmp_path / "elsewhere", capture_output=True,
        input=pickle.dumps(origin), env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.decode().strip() == str(tmp_path), done.stderr.decode()


def test_a_worker_that_misses_a_folder_says_which(tmp_path: Path) -> None:
    origin = Origin("head", 1, tmp_path / "place")
    with pytest.raises(UserError, match=r"hydra.sweep.dir=.*/sweep: the worker .* does not see this folder of head"):
        origin.enter(tmp_path / "sweep")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").touch()
    with pytest.raises(UserError, match=r"working directory=.*/place: the worker"):
        origin.enter(tmp_path / "sweep")


def test_workers_of_joblib_have_cpus_of_their_own(tmp_path: Path) -> None:
    code = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from omegaconf import OmegaConf
from compress.launchers import pin
node = OmegaConf.create({{"_target_": sys.argv[1]}})
os.sched_getaffinity = lambda pid: {{0, 1, 2}}
os.sched_setaffinity = lambda pid, cpus: print(sorted(cpus), flush=True)
pin(node, int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.read()
"""

    def worker(threads: int, target: str = "x.joblib_launcher.Y") -> tuple[subprocess.Popen[str], list[str]]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, target, str(threads)], env={**os.environ, "TMPDIR": str(tmp_path)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        return process, [line.strip() for line in iter(process.stdout.readline, "ready\n")]

    first, second, third, other = worker(1), worker(1), worker(2), worker(1, "x.Ray")
    assert [each[1] for each in (first, second, third, other)] == [["[0]"], ["[1]"], [], []]
    for process, _ in (first, third):
        process.communicate()
    fourth = worker(2)
    assert fourth[1] == ["[0, 2]"]
    for process, _ in (second, other, fourth):
        process.communicate()
