"""What a user gets wrong: one clear error that names key, value and remedy, exit status 2, nothing left behind."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from compress import command_line
from compress.config import CONF, RECIPES

Run = Callable[..., str]
DIGITS = ["recipe=digits", "stages=[prune]", "targets=[onnxruntime]"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in an empty folder; returns its one line of error, having checked the rest."""

    def call(*arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["compress", *arguments])
        status = command_line.main()
        error = capsys.readouterr().err
        lines = [line for line in error.splitlines() if line.startswith("compress: error:")]
        assert status == command_line.USER_MISTAKE, error
        assert len(lines) == 1 and "Traceback" not in error, error
        assert not list(tmp_path.glob("outputs/*/*/*")), "a run that was refused left files behind"
        return lines[0]

    return call


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A YOLO data set of 8 + 4 noise images; returns its data.yaml."""
    root = tmp_path / "scenes"
    for split, count in (("train", 8), ("val", 4)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            noise = np.random.default_rng([len(split), index]).integers(0, 255, (64, 64, 3), dtype=np.uint8)
            cv2.imwrite(str(root / "images" / split / f"{index}.jpg"), noise)
            (root / "labels" / split / f"{index}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [thing]\n")
    return root / "data.yaml"


def detector(scenes: Path, *more: str) -> list[str]:
    pytest.importorskip("ultralytics")
    options = [f"data.path={scenes}", "model.weights=null", "model.imgsz=64", "targets=[onnxruntime]"]
    return ["recipe=drone_nano", "data=yolo", *options, *more]


def test_unknown_recipe_lists_those_there_are(run: Run) -> None:
    error = run("recipe=drone_giant")
    assert "drone_giant" in error
    assert all(path.stem in error for path in RECIPES.glob("*.yaml"))


def test_unknown_choice_lists_those_there_are(run: Run) -> None:
    error = run("recipe=digits", "prune=magic")
    assert all(path.stem in error for path in (CONF / "prune").glob("*.yaml"))


def test_two_runs_do_not_share_a_folder(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "config.yaml").write_text("of the other run")
    held = os.open(folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    error = run(*DIGITS, f"hydra.run.dir={folder}", "budget.flops=50%")
    os.close(held)
    assert "hydra.run.dir" in error and "another run uses this folder" in error
    assert (folder / "config.yaml").read_text() == "of the other run"


def test_mistyped_key(run: Run) -> None:
    assert "rato" in run("recipe=digits", "prune.rato=0.3")


def test_value_of_the_wrong_type(run: Run) -> None:
    error = run("recipe=digits", "seed=lots")
    assert "seed" in error and "lots" in error


def test_unknown_target(run: Run) -> None:
    error = run("recipe=digits", "targets=[abacus]")
    assert "abacus" in error and "openvino" in error


def test_stages_out_of_order(run: Run) -> None:
    error = run("recipe=digits", "stages=[quantize,prune]")
    assert "stages" in error and "order" in error


def test_both_ratio_and_budget(run: Run) -> None:
    error = run(*DIGITS, "prune.ratio=0.3")
    assert "prune.ratio" in error and "budget.flops" in error


def test_neither_ratio_nor_budget(run: Run) -> None:
    error = run(*DIGITS, "budget.flops=null")
    assert "prune.ratio" in error and "budget.flops" in error


def test_a_budget_that_is_no_number(run: Run) -> None:
    error = run(*DIGITS, "budget.flops=plenty")
    assert "budget.flops=plenty" in error


def test_an_unreachable_budget_gives_the_range(run: Run) -> None:
    error = run(*DIGITS, "budget.flops=0.5%", "cache=false")
    assert "budget.flops" in error and "can reach" in error and "100%" in error


def test_a_data_yaml_that_points_nowhere(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    assert "nowhere.yaml" in run("recipe=drone_nano", "data=yolo", f"data.path={tmp_path}/nowhere.yaml")


def test_an_image_that_does_not_decode(run: Run, scenes: Path) -> None:
    (scenes.parent / "images" / "val" / "2.jpg").write_bytes(b"not a picture")
    assert "2.jpg" in run(*detector(scenes))


def test_a_label_out_of_range(run: Run, scenes: Path) -> None:
    (scenes.parent / "labels" / "train" / "3.txt").write_text("7 0.5 0.5 0.2 0.2\n")
    error = run(*detector(scenes))
    assert "3.txt" in error and "7" in error


def test_weights_that_do_not_fit(run: Run, scenes: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"model.0.conv.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "odd.safetensors")
    error = run(*detector(scenes, f"model.weights={tmp_path}/odd.safetensors"))
    assert "model.weights" in error and "model.0.conv.weight" in error


def test_missing_weights(run: Run, scenes: Path) -> None:
    assert "gone.safetensors" in run(*detector(scenes, "model.weights=gone.safetensors"))


def test_an_absent_extra_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "tensorrt_rtx" else find(name, *rest)
    )
    error = run("recipe=digits", "targets=[tensorrt]")
    assert "pip install -e '.[tensorrt]'" in error


def test_a_sample_of_hundreds_of_bad_inputs() -> None:
    """Every fifth of the cases in scripts/benchmarks/bad_input_cases.py; the script prints those that fail."""
    command = [sys.executable, "scripts/benchmarks/bad_input.py", "--every", "5"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert int(done.stdout.split(" passed")[0].split()[-1]) > 100
