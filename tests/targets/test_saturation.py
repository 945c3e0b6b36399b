"""Detection of INT8 saturation on this machine, and the weights of saturation-safe schemes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from compress.config import ExportConfig
from compress.host import host
from compress.targets import onnxruntime, saturation
from tests.fakes import small_model

VNNI = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp"}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_cpu_with_vnni_does_not_saturate(target: str) -> None:
    if not VNNI & set(host().features):
        pytest.skip("this CPU has no VNNI")
    if target == "openvino" and "ONEDNN_MAX_CPU_ISA" in os.environ:
        pytest.skip("ONEDNN_MAX_CPU_ISA restricts oneDNN, which OpenVINO uses")
    assert saturation.saturates(target) is False


def test_of_other_targets_nothing_is_known() -> None:
    assert saturation.saturates("tensorrt") is None


def test_a_probe_that_fails_means_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise RuntimeError("no such operator")

    monkeypatch.setitem(saturation._PROBES, "broken", fail)
    assert saturation.saturates("broken") is None


def test_a_sum_cut_off_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(saturation._PROBES, "cut", lambda: saturation.EXACT // 2)
    assert saturation.saturates("cut") is True


def test_seven_bits_are_what_the_safe_scheme_leaves(tmp_path: Path) -> None:
    model = small_model()
    graph = onnxruntime.convert(model, tmp_path, ExportConfig())
    images = [model.example_input().numpy()]
    largest: dict[bool, int] = {}
    for scheme in (onnxruntime.SCHEMES[0], *(each for each in onnxruntime.SCHEMES if each.saturation_safe)):
        made = onnxruntime.quantize(graph, model, images, tmp_path / str(len(largest)), scheme)
        tensors = [onnx.numpy_helper.to_array(each) for each in onnx.load(made.path).graph.initializer]
        weights = [each for each in tensors if each.dtype == np.int8 and each.ndim > 1]
        largest[scheme.saturation_safe] = max(int(np.abs(each.astype(int)).max()) for each in weights)
    assert largest == {False: 127, True: 64}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_an_emulated_cpu_without_vnni_saturates(target: str) -> None:
    """Needs Debian's qemu-user."""
    if shutil.which("qemu-x86_64") is None:
        pytest.skip("qemu-x86_64 is not installed")
    code = f"from compress.targets import saturation; print(saturation.saturates({target!r}))"
    command = ["qemu-x86_64", "-cpu", "Haswell", os.path.realpath(sys.executable), "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ":".join(["."] + sys.path[1:])}
    )
    assert done.stdout.strip().endswith("True"), done.stderr
