"""A small Ultralytics detector and a batch to train it on."""

from __future__ import annotations

from typing import Any

import torch

from compress.config import ModelConfig
from compress.models import build
from compress.models.ultralytics_model import UltralyticsDetector
from compress.tasks import DETECT
from tests.models.toy import randomise

CLASSES = ("a", "b", "c", "d", "e")
SIZE = 64


def make(name: str = "yolo26n", **given: Any) -> UltralyticsDetector:
    torch.manual_seed(0)
    model = build(ModelConfig(name=name, imgsz=SIZE, **given), CLASSES, DETECT)
    assert isinstance(model, UltralyticsDetector)
    return model.with_net(randomise(model.net))


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "img": torch.rand(2, 3, SIZE, SIZE, generator=generator),
        "cls": torch.tensor([[0.0], [4.0], [2.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.3, 0.2, 0.2], [0.6, 0.5, 0.5, 0.6]]),
        "batch_idx": torch.tensor([0.0, 0.0, 1.0]),
    }
