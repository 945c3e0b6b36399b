from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from onnx import helper

from compress import __main__, command_line
from compress.measurement import layer_latency, roofline
from compress.profiling import command, profile
from tests.models import onnx_files
from tests.profiling.profiles import ROOF


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_latency, "RUNS", 5)
    monkeypatch.setattr(profile, "SECONDS", 0.05)
    monkeypatch.setattr(roofline, "of_host", lambda threads: ROOF)


def test_one_model_is_shown_with_its_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("json", "csv", "plot")}
    options = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    monkeypatch.setattr(sys, "argv", ["compress", "profile", "resnet20", "--threads", "1", "--layers", "3", *options])
    assert __main__.main() == 0
    shown = capsys.readouterr().out
    assert "resnet20" in shown and "more layers" in shown and "onnxruntime" in shown and "10.0 GB/s" in shown
    (model,) = json.loads(files["json"].read_text())["models"]
    assert model["name"] == "resnet20" and len(list(csv.reader(files["csv"].open()))) == len(model["layers"]) + 1
    assert files["plot"].read_text().startswith("<svg")


def test_devices_are_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["resnet20", "--threads", "1", "--devices", "raspberry_pi_5,coral"]) == 0
    shown = capsys.readouterr().out
    assert "raspberry_pi_5" in shown and "images/s" in shown and "coral: unknown, " in shown
    assert command.main(["resnet20", "--devices", "raspbery_pi_5"]) == 2
    assert "did you mean raspberry_pi_5" in capsys.readouterr().err
    assert command.main(["resnet20", "--devices", "coral"]) == 2  # before anything is timed
    error = capsys.readouterr().err
    assert "--devices=coral: nothing can be predicted" in error and "no memory bandwidth in its profile" in error
    assert "add what is missing" in error
    assert command.main(["resnet20", "--devices", ""]) == 2


def test_several_models_are_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["resnet20", "digits_cnn", "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    assert "digits_cnn" in shown and "more layers" not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet2O"], "model=resnet2O: there is no such model"),
        (["resnet20", "--imgsz", "0"], "--imgsz=0: set 1 or more"),
        (["resnet20", "--channels", "0"], "--channels=0: set 1 or more"),
        (["resnet20", "--channels", "4"], "--channels=4: only files leave their channels open"),
        (["resnet20", "--unknown", "ignore"], "invalid choice: 'ignore'"),
        (["resnet20", "--layers", "-1"], "--layers=-1: set 0 or more"),
        (["resnet20", "--csv", "no/such/folder.csv"], "--csv=no/such/folder.csv: set a file in a folder that exists"),
        (["--sort", "size", "resnet20"], "invalid choice: 'size'"),
        ([], "the following arguments are required: MODEL"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_operators_without_a_formula_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = onnx_files.classifier(image=(1, 3, "h", "w"))
    made.graph.node[5].CopyFrom(helper.make_node("Det", ["features"], ["mean"], name="/det/Det"))
    path = onnx_files.save(made, tmp_path / "det.onnx")
    assert command.main([str(path), "--imgsz", "16", "--threads", "1"]) == 2
    error = capsys.readouterr().err
    assert "det.onnx, /det/Det: Det: " in error and "count it apart with --unknown warn" in error
    assert command.main([str(path), "--imgsz", "16", "--threads", "1", "--unknown", "warn"]) == 0
    assert "not counted, without a formula: Det (1)" in capsys.readouterr().out


def test_overrides_run_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "main", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["compress", "profile", "model=yolo26n"])
    assert __main__.main() == 0 and sys.argv[1:] == ["recipe=profile", "model=yolo26n"]
