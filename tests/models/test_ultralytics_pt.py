"""The `.pt` for plain Ultralytics; `test_every_yolo.py` opens many in an interpreter without this package."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("ultralytics")

from compress.config import Family, ModelConfig, PruneConfig
from compress.models import build, save_native
from compress.models.ultralytics_model import UltralyticsModel
from compress.pruning.solver import prune_to_ratio
from tests.models.toy import Net, enliven

SIZE = 64


def pruned(name: str, **config: Any) -> UltralyticsModel:
    torch.manual_seed(0)
    model = build(ModelConfig(name=name, imgsz=SIZE), ("a", "b"))
    assert isinstance(model, UltralyticsModel)
    net, protected = model.with_net(enliven(model.net, model.example_input())).prunable()
    return model.with_net(prune_to_ratio(net, model.example_input(), protected, PruneConfig(**config), 0.3).net)


@pytest.mark.parametrize("name", ["yolo26n", "yolov8n", "yolo11n-cls"])
def test_plain_ultralytics_opens_it_and_answers_alike(name: str, tmp_path: Path) -> None:
    from ultralytics import YOLO
    from ultralytics.nn.tasks import BaseModel

    model = pruned(name, equal_split_widths=True)
    assert save_native(model, tmp_path) == tmp_path / "model.pt"
    x = model.example_input(2)
    plain = YOLO(str(tmp_path / "model.pt"))
    assert plain.names == {0: "a", 1: "b"} and plain.task == model.task.name
    assert isinstance(plain.model, BaseModel)
    with torch.no_grad():
        result, ours = plain.model.eval()(x)[0], model.net.eval()(x)[0]
    assert torch.allclose(result, ours, atol=1e-4)
    fused = plain.model.fuse(verbose=False)
    with torch.no_grad():
        assert torch.allclose(fused(x)[0], model.deployed()(x), atol=1e-4)


def test_it_names_no_class_of_ours(tmp_path: Path) -> None:
    path = save_native(pruned("yolo26n", equal_split_widths=True), tmp_path)
    assert path is not None
    with zipfile.ZipFile(path) as archive:
        data = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    texts = [str(argument) for _, argument, _ in pickletools.genops(data) if argument is not None]
    assert any("ultralytics.nn.tasks" in text for text in texts)
    assert not any("compress" in text for text in texts)


def test_unequal_halves_leave_none_behind(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"of the stage before")
    assert save_native(pruned("yolov8n"), tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_other_families_have_none(tmp_path: Path) -> None:
    model = build(ModelConfig(family=Family.module, target=f"{Net.__module__}.Net", imgsz=32))
    assert save_native(model, tmp_path) is None and not list(tmp_path.iterdir())
