"""What `compress new` writes runs as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compress.new import create, main

SHORT = "stages=[train,quantize] train.images=64 targets=[onnxruntime] data.calibration_images=8 force=true threads=1"
SHORT += " quantize.few_images=true quantize.search=false model.imgsz=64 budget.flops=null"


def test_a_new_folder_runs_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    command = [sys.executable, "-c", "import sys; from compress.__main__ import console; console()"]
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths}

    def compress(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)

    made = compress("new", "mine")
    assert made.returncode == 0, made.stderr
    shown = made.stdout.splitlines()[1].split()
    assert shown[:2] == ["compress", "run"]
    done = compress(*shown[1:], "metric.target=mine.mine_metric.recall", *SHORT.split(), "hydra.run.dir=out")
    assert done.returncode in (0, 3), done.stderr  # a network that was hardly trained loses more than it may
    assert '"metric": "recall"' in (tmp_path / "out" / "ledger.jsonl").read_text()


@pytest.mark.parametrize("name", ["two words", "1st", "../up", ""])
def test_a_name_that_is_none_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([name]) == 2
    assert capsys.readouterr().err.startswith("compress: error: ") and not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    create("mine")
    assert main(["mine"]) == 2
