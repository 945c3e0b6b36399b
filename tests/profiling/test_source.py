from __future__ import annotations

from pathlib import Path

import pytest

from compress.capabilities import GivenAsGraph, TorchModel
from compress.errors import UserError
from compress.profiling import source
from compress.targets import onnx_graph


@pytest.mark.parametrize(("word", "imgsz"), [("resnet20", 28), ("tests.models.toy.Net", 64)])
def test_a_word_names_a_model(word: str, imgsz: int) -> None:
    model = source.load(word, None if word == "resnet20" else imgsz)
    assert isinstance(model, TorchModel) and model.imgsz == imgsz


def test_an_onnx_file_has_its_own_input(tmp_path: Path) -> None:
    path = onnx_graph.export(source.load("resnet20"), tmp_path / "with space.onnx", 17)
    model = source.load(str(path))
    assert isinstance(model, GivenAsGraph) and model.imgsz == 28
    with pytest.raises(UserError, match="--imgsz=64: .* has a fixed input of 28 px"):
        source.load(str(path), 64)


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
