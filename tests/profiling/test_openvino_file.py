"""OpenVINO's IR: profiled as the model that it was converted from, or refused in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from compress.config import ExportConfig
from compress.errors import UserError
from compress.examples.small_cnn import SmallCNN
from compress.profiling import openvino_file, source
from compress.profiling import profile as profiling
from compress.profiling.profile import count, profile
from compress.targets import openvino
from compress.targets.openvino_package import package_without_telemetry
from tests.fakes import FakeModel
from tests.profiling.profiles import ROOF
from tests.targets.mixed_network import Mixed

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def ir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ir")
    return openvino.convert(FakeModel(Mixed(), imgsz=32), folder, ExportConfig()).path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_file, "RUNS", 5)
    monkeypatch.setattr(profiling, "SECONDS", 0.05)


def test_a_file_is_counted_and_timed_in_its_runtime(ir: Path, tmp_path: Path) -> None:
    found = profile(count("file", source.find(str(ir), tmp_path)()), 1, ROOF)
    assert [speed.runtime.split()[0] for speed in found.speeds] == ["openvino"]
    assert (found.imgsz, found.modules, found.size_bytes) == (
        32,
        None,
        sum(f.stat().st_size for f in ir.parent.iterdir()),
    )
    names = {layer.name: layer for layer in found.layers}
    assert names["stem"].macs == 8 * 256 * 27 and names["stem"].operators == "Convolution"
    assert names["stem"].ms > 0 and found.layers_timed
    assert sum(layer.time_fraction for layer in found.layers) == pytest.approx(1)
    assert found.operators and found.bit_operations == 1024 * found.macs


def test_quantized_files_are_counted_in_integers(ir: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    model, images = FakeModel(SmallCNN(), imgsz=32), [np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)]
    graph = openvino.convert(model, tmp_path / "fp32", ExportConfig())
    quantized = openvino.quantize(graph, model, images, tmp_path / "int8")
    found, floats = (
        profile(count("file", source.find(str(each.path), tmp_path)()), 1, ROOF) for each in (quantized, graph)
    )
    assert found.speeds[0].precision == "int8" and found.operators == ()
    assert 64 * found.macs <= found.bit_operations < 100 * found.macs
    assert (found.macs, found.params) == (floats.macs, floats.params)


def test_open_dimensions_are_set(ir: Path, tmp_path: Path) -> None:
    package = package_without_telemetry()
    model = package.Core().read_model(ir)
    model.reshape([-1, 3, -1, -1])
    package.save_model(model, tmp_path / "open.xml", compress_to_fp16=True)
    (tmp_path / "scratch").mkdir()
    path = tmp_path / "open.xml"
    subject = openvino_file.read(path, tmp_path / "scratch", 32)
    fixed = openvino_file.read(ir, tmp_path)
    assert subject.imgsz == 32 and subject.image.shape == (1, 3, 32, 32)
    found, wanted = (profile(count("file", each), 1, ROOF) for each in (subject, fixed))
    assert (found.macs, found.params) == (wanted.macs, wanted.params)
    with pytest.raises(UserError, match=r"open\.xml: its input has shape .*: set --imgsz"):
        openvino_file.read(path, tmp_path)


def test_files_that_cannot_be_read_are_named(ir: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.xml"
    shutil.copy(ir, path)
    with pytest.raises(UserError, match=r"net\.xml: its weights net\.bin are not beside it"):
        openvino_file.read(path, tmp_path)
    whole = ir.with_suffix(".bin").read_bytes()
    path.with_suffix(".bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"net\.xml: not an OpenVINO IR, or damaged \(.*\): export it again"):
        openvino_file.read(path, tmp_path)
    for text in ("<net", "<annotation><size/></annotation>", ir.read_text().replace('"Convolution"', '"Mine"')):
        path.with_suffix(".bin").write_bytes(whole)
        path.write_text(text)
        with pytest.raises(
            UserError, match=r"net\.xml: not an OpenVINO IR, or damaged \(.+\): export it again"
        ) as error:
            openvino_file.read(path, tmp_path)
        assert "\n" not in str(error.value) and "src/" not in str(error.value)
