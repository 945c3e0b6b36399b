from __future__ import annotations

import copy
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

pytest.importorskip("ultralytics")

from compress import checkpoint
from compress.config import Family, ModelConfig
from compress.errors import UserError
from compress.models import build, from_constructor, save_native
from compress.models.ultralytics_model import UltralyticsDetector
from tests.models.detectors import CLASSES, SIZE, batch, make


def test_a_trained_pt_brings_its_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = make("yolov8n")
    torch.save({"model": copy.deepcopy(model.net).half(), "ema": None}, tmp_path / "best.pt")
    config = ModelConfig(path=str(tmp_path / "best.pt"), imgsz=SIZE)
    with caplog.at_level(logging.WARNING):
        loaded = build(config, ("1", "2", "3", "4", "5"))
    assert isinstance(loaded, UltralyticsDetector)
    assert "unpickled" not in caplog.text and loaded.classes == CLASSES
    assert torch.isfinite(loaded.loss(loaded.net.train(), batch()))
    with pytest.raises(UserError, match="has 5 classes, the data has 2"):
        build(config, ("x", "y"))


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"name": None}, "model.name"),
        ({"name": "yolo27n"}, "model.name"),
        ({"name": "yolov10n"}, "model.name"),
        ({"name": "yolo26n-depth"}, "model.name"),
        ({"name": "yolo26n", "imgsz": 100}, "model.imgsz"),
        ({"name": "yolo26n", "weights": "atlantis"}, "model.weights"),
        ({"path": "nowhere.pt"}, "model.path"),
    ],
)
def test_a_users_mistake_names_its_key(given: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError) as caught:
        build(replace(ModelConfig(Family.ultralytics, imgsz=SIZE), **given), CLASSES)
    assert caught.value.key == key


def test_weights_of_another_architecture_name_the_tensor(tmp_path: Path) -> None:
    save_file({k: v.clone() for k, v in make("yolov8n").net.state_dict().items()}, tmp_path / "v8.safetensors")
    assert make("yolov8n", weights=str(tmp_path / "v8.safetensors"))
    with pytest.raises(UserError, match=r"tensor model\.\d+\..* (has shape|is missing)"):
        make("yolo11n", weights=str(tmp_path / "v8.safetensors"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"model": None}, "holds no Ultralytics model"),
        ([1, 2], "holds no Ultralytics model"),
        ({"model": {"model.0.conv.weight": torch.zeros(1)}}, "holds no Ultralytics model"),
        (nn.Conv2d(3, 3, 1), "holds no Ultralytics model"),
        (b"no pickle at all", "not in the format that torch.save writes"),
    ],
)
def test_a_pt_that_is_no_model(content: object, says: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=says):
        build(ModelConfig(path=str(path), imgsz=SIZE), CLASSES)


def test_a_pt_that_this_cannot_go_on_from(tmp_path: Path) -> None:
    from ultralytics.nn.tasks import DetectionModel

    def load(net: nn.Module, **given: Any) -> None:
        torch.save({"model": net}, tmp_path / "best.pt")
        build(ModelConfig(path=str(tmp_path / "best.pt"), imgsz=SIZE, **given), CLASSES)

    with pytest.raises(UserError, match="v10Detect head; supported heads are"):
        load(DetectionModel("yolov10n.yaml", verbose=False))
    model = make("yolov8n")
    with pytest.raises(UserError, match="fused"):
        load(copy.deepcopy(model.net).fuse(verbose=False))
    with pytest.raises(UserError, match=r"model\.channels=1.*3 channels"):
        load(model.net, channels=1)
    save_native(make("yolo26n"), tmp_path)  # holds the deployed head alone
    with pytest.raises(UserError, match="model=checkpoint"):
        build(ModelConfig(path=str(tmp_path / "model.pt"), imgsz=SIZE), CLASSES)


def test_a_checkpoint_of_another_model_or_version(tmp_path: Path) -> None:
    checkpoint.save(make("yolov8n"), tmp_path)
    good = json.loads((tmp_path / checkpoint.DESCRIPTION).read_text())
    del good["sha256"]  # as an older version wrote it: what is tried here is what comes after that check

    def load(**changes: object) -> None:
        changed = good | {"constructor": good["constructor"] | changes}
        (tmp_path / checkpoint.DESCRIPTION).write_text(json.dumps(changed))
        checkpoint.load(tmp_path, from_constructor)

    load()
    with pytest.raises(UserError, match="tensor .* (is missing|does not exist)"):
        load(yaml=make("yolo11n").constructor()["yaml"])
    yaml = good["constructor"]["yaml"]
    with pytest.raises(UserError, match="BlockOfTomorrow.*not a layer that the installed ultralytics"):
        load(yaml=yaml | {"backbone": [[-1, 1, "BlockOfTomorrow", [64, 3, 2]], *yaml["backbone"][1:]]})
    with pytest.raises(UserError, match="HeadOfTomorrow.*not a layer that the installed"):
        load(yaml=yaml | {"head": [*yaml["head"][:-1], [[15, 18, 21], 1, "HeadOfTomorrow", ["nc"]]]})
    with pytest.raises(UserError, match="classes is 5, expected"):
        load(classes=5)
    with pytest.raises(UserError, match="multiple of the network's stride"):
        load(imgsz=100)
