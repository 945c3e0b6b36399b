"""Sweeps on several processes and on a Ray cluster of two nodes: the numbers of a serial sweep, and lost nodes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SWEEP = ["recipe=digits", "stages=[train]", "targets=[]", "threads=1", "train.images=30000", "seed=1,2,3", "-m"]
LIMIT = 600.0  # seconds


def command(place: Path, *words: str) -> subprocess.Popen[str]:
    place.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(
        [sys.executable, "-m", "compress", *SWEEP, *words], cwd=place, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def accuracies(place: Path) -> dict[str, float]:
    """Accuracy of the trained model of each point."""
    ledgers = place.glob("outputs/sweeps/*/*/*/ledger.jsonl")
    rows = {file.parent.name: [json.loads(line) for line in file.read_text().splitlines()] for file in ledgers}
    return {name: each[-1]["accuracy"]["value"] for name, each in rows.items() if each[-1]["stage"] == "train"}


def states(place: Path) -> list[dict[str, object]]:
    return [json.loads(file.read_text()) for file in sorted(place.glob("outputs/sweeps/*/*/*/state.json"))]


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    place = tmp_path_factory.mktemp("serial")
    process = command(place)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    return accuracies(place)


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("hydra_plugins.hydra_joblib_launcher", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]),
        ("hydra_plugins.hydra_submitit_launcher", ["hydra/launcher=submitit_local"]),
    ],
)
def test_processes_have_the_numbers_of_a_serial_sweep(
    package: str, words: list[str], serial: dict[str, float], tmp_path: Path
) -> None:
    pytest.importorskip(package)
    process = command(tmp_path, *words)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    assert accuracies(tmp_path) == serial
    assert len(list(tmp_path.glob("outputs/sweeps/*/*/report.html"))) == 1


def test_a_killed_worker_is_one_line_and_the_same_command_continues(serial: dict[str, float], tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    process = command(tmp_path, *words)
    wait_for(lambda: [state.get("stage") for state in states(tmp_path)] == ["train", "train"], process)
    pid = states(tmp_path)[0]["pid"]
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 1 and "Traceback" not in errors
    [line] = [line for line in errors.splitlines() if line.startswith("compress: error:")]  # joblib adds warnings
    assert line.startswith("compress: error: hydra/launcher: a worker ended before its point did (")
    process = command(tmp_path, *words)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    assert accuracies(tmp_path) == serial and len(list(tmp_path.glob("outputs/sweeps/*/*"))) == 1


def wait_for(met: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    end = time.monotonic() + LIMIT
    while not met():
        assert time.monotonic() < end
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """The address of a Ray cluster and its two nodes, each with one CPU and a working directory of its own."""
    pytest.importorskip("ray")
    address = f"127.0.0.1:{free_port()}"
    common = ["--node-ip-address", "127.0.0.1", "--num-cpus", "1", "--object-store-memory", "100000000", "--block"]
    head = ["--head", "--port", address.partition(":")[2], "--include-dashboard", "false"]
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        for index, words in enumerate((head, ["--address", address])):
            folder = tmp_path / f"node{index}"
            folder.mkdir()
            with open(folder / "log", "w") as log:
                nodes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "ray.scripts.scripts", "start", *words, *common], cwd=folder,
                        stdout=log, stderr=log, start_new_session=True,
                        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
                    )
                )  # fmt: skip
            wait_for(lambda log=folder / "log": "--block" in log.read_text())  # type: ignore[misc]
        yield address, nodes
    finally:
        for node in reversed(nodes):
            kill(node)


def kill(node: subprocess.Popen[bytes]) -> None:
    """Ends all processes of a node at once, as a power failure does."""
    if node.poll() is None:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()


def test_a_lost_node_loses_no_finished_point_and_its_point_runs_again(
    cluster: tuple[str, list[subprocess.Popen[bytes]]], serial: dict[str, float], tmp_path: Path
) -> None:
    address, nodes = cluster
    place = tmp_path / "place"
    process = command(place, "hydra/launcher=ray", f"hydra.launcher.ray.init.address={address}")
    trains = {"status": "running", "stage": "train"}
    wait_for(lambda: sum(trains.items() <= state.items() for state in states(place)) == 2, process)
    kill(nodes[1])
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    assert accuracies(place) == serial
    logs = [file.read_text() for file in place.glob("outputs/sweeps/*/*/*/log.txt")]
    assert sum("which stopped in stage train" in log for log in logs) == 1
    assert all(state["status"] == "finished" for state in states(place))
    assert sorted(path.name for path in (tmp_path / "node0").iterdir()) == ["log"], "nothing is written elsewhere"


def test_a_cluster_without_what_a_point_needs_is_refused(
    cluster: tuple[str, list[subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    words = [
        "hydra/launcher=ray",
        f"hydra.launcher.ray.init.address={cluster[0]}",
        "hydra.launcher.ray.remote.num_gpus=1",
    ]
    process = command(tmp_path / "place", *words)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 2
    assert "hydra.launcher.ray.remote.num_gpus=1: no node of the cluster has more than 0 GPUs" in errors
    assert not list((tmp_path / "place").glob("outputs/sweeps/*/*"))
