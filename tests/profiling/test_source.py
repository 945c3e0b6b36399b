from __future__ import annotations

from pathlib import Path

import pytest

from compress.capabilities import GivenAsGraph, TorchModel
from compress.errors import UserError
from compress.profiling import source
from compress.targets import onnx_graph
from tests.models import onnx_files


@pytest.mark.parametrize(("word", "imgsz"), [("resnet20", 28), ("tests.models.toy.Net", 64)])
def test_a_word_names_a_model(word: str, imgsz: int) -> None:
    model = source.load(word, None if word == "resnet20" else imgsz)
    assert isinstance(model, TorchModel) and model.imgsz == imgsz


def test_an_onnx_file_has_its_own_input(tmp_path: Path) -> None:
    path = onnx_graph.export(source.load("resnet20"), tmp_path / "with space.onnx", 17)
    model = source.load(str(path))
    assert isinstance(model, GivenAsGraph) and model.imgsz == 28
    with pytest.raises(UserError, match="--imgsz=64: .* takes only 28 px: set --imgsz=28"):
        source.load(str(path), 64)


@pytest.mark.parametrize(
    ("image", "sizes", "missing"),
    [
        (("n", 3, "h", "w"), (32, None), "set --imgsz, or export"),
        ((1, 3, "h", "w"), (32, None), "set --imgsz, or export"),
        (("n", "c", "h", "w"), (32, 3), "set --channels and --imgsz, or export"),
        ((1, "c", 32, 32), (None, 3), "set --channels, or export"),
    ],
)
def test_open_dimensions_of_an_onnx_file_are_set_by_options(
    image: tuple[int | str, ...], sizes: tuple[int | None, int | None], missing: str, tmp_path: Path
) -> None:
    path = onnx_files.save(onnx_files.classifier(image=image), tmp_path / "open.onnx")
    assert source.load(str(path), *sizes).imgsz == 32
    with pytest.raises(UserError, match=missing):
        source.load(str(path))


def test_channels_are_for_onnx_files() -> None:
    with pytest.raises(UserError, match="--channels=4: only files"):
        source.load("resnet20", None, 4)


def test_an_architecture_is_one_of_ultralytics() -> None:
    pytest.importorskip("ultralytics")
    assert source.load("yolo26n-cls", 64).imgsz == 64


@pytest.mark.parametrize("word", ["resnet21", "none.onnx", "best.pt", "no.such.Net", "timm/none", "yolo99z"])
def test_what_is_no_model_is_named(word: str) -> None:
    if word.startswith("yolo"):
        pytest.importorskip("ultralytics")
    if word.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(UserError) as caught:
        source.load(word)
    assert word.rpartition("/")[2].partition(".")[0] in str(caught.value)


def test_files_are_read_at_once_and_models_exported_on_demand(tmp_path: Path) -> None:
    found = source.find("resnet20", tmp_path)
    assert not list(tmp_path.iterdir())
    subject = found()
    assert subject.imgsz == 28 and subject.net is not None and subject.size_bytes > 0
    for name in ("none.xml", "none.tflite"):
        with pytest.raises(UserError, match=f"model={name}: no such file"):
            source.find(name, tmp_path)
