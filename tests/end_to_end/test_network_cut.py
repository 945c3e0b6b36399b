"""No library that is used here tries to reach the network. test_recipe_digits.py holds a whole run to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import compress
from tests.end_to_end import network

# Every library that sends events elsewhere, imported and used the way this package does.
LIBRARIES = """
import os
import compress
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"  # it reports from C++, seconds after its import
import onnxruntime
from compress.config import Family, ModelConfig
from compress.models import build
from compress.targets import get
import torch

build(ModelConfig(name="yolo26n", imgsz=64), ("a", "b")).net(torch.zeros(1, 3, 64, 64))
build(ModelConfig(family=Family.timm, name="resnet10t", imgsz=64), ("a", "b"))
for name in ("onnxruntime", "openvino"):
    target = get(name)
    target.require()
from compress.targets import openvino
openvino.package_without_telemetry()
import nncf
from nncf.telemetry import telemetry
telemetry.send_event("category", "action", "label")
"""


def test_the_cut_is_noticed(tmp_path: Path) -> None:
    reach = "import urllib.request as r\ntry: r.urlopen('http://192.0.2.1', timeout=1)\nexcept OSError: pass"
    _python(reach, tmp_path)
    assert "192.0.2.1" in network.attempts(tmp_path)


def test_onnx_runtime_is_told_to_keep_quiet() -> None:
    """It reports from C++, seconds after its import, so that nothing above shows it; without strace nor does below."""
    kit = Path(compress.__file__).parent / "targets" / "bench_kit" / "runtime_onnxruntime.py"
    for code in ("import compress", kit.read_text()):
        settings = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
        said = "\nimport os, sys; print(os.environ['ORT_DISABLE_TELEMETRY'])"
        done = subprocess.run([sys.executable, "-c", code + said], env=settings, capture_output=True, text=True)
        assert done.stdout == "1\n", done.stderr


@pytest.mark.slow
def test_libraries_do_not_reach_out(tmp_path: Path) -> None:
    for package in ("ultralytics", "timm", "openvino", "nncf"):
        pytest.importorskip(package)
    _python(LIBRARIES, tmp_path)
    assert network.attempts(tmp_path) == ""


def _python(code: str, folder: Path) -> None:
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("YOLO_", "HF_"))}
    # Homes of their own: a library's settings there, or a consent given once, would decide otherwise.
    settings.pop("ORT_DISABLE_TELEMETRY", None)
    settings |= network.cut(folder) | {"HOME": str(folder), "YOLO_CONFIG_DIR": str(folder)}
    trace = folder / "trace"
    tracer = ["strace", "-f", "-qq", "-e", "trace=connect", "-o", str(trace)] if _can_trace() else []
    done = subprocess.run(
        [*tracer, sys.executable, "-c", code], env=settings, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "AF_INET" not in (trace.read_text() if tracer else "")  # nor from C++


def _can_trace() -> bool:
    return shutil.which("strace") is not None and subprocess.run(["strace", "-o", "/dev/null", "true"]).returncode == 0
