"""Writes a `.pt` that Ultralytics opens without this package: `YOLO(path).predict`, `.val`, `.export`."""

from __future__ import annotations

import io
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from compress import atomic, checkpoint
from compress.models import ultralytics
from compress.models import ultralytics_blocks as blocks
from compress.models.ultralytics_model import UltralyticsModel


def save(model: UltralyticsModel, path: Path) -> bool:
    """Writes `model` in Ultralytics' own checkpoint format: float32, with stock blocks and the deployed head only.
    Returns False, with nothing written, if the halves of a split block differ in width, which no stock block can
    represent. Pruning with `prune.equal_split_widths` keeps them equal."""
    import ultralytics as package

    if (tensors := blocks.merged(model.net)) is None:
        return False
    net: Any = ultralytics.from_constructor(model.constructor() | {"split": False}, trust=True).net
    checkpoint.resize(net, tensors, path)
    net.load_state_dict(tensors)
    blocks.fit_to_weights(net).eval().requires_grad_(False)
    if hasattr(net.model[-1], "fuse"):
        net.model[-1].fuse()  # otherwise YOLO26 would predict with its training head unless `nms=False` is set
    # Plain values only: an earlier Ultralytics could not open a file with objects of a later one.
    net.args = {"task": model.task.name, "imgsz": model.imgsz, "single_cls": False}
    content = {
        "epoch": -1, "best_fitness": None, "model": net, "ema": None, "updates": None, "optimizer": None,
        "train_args": net.args, "date": datetime.now().astimezone().isoformat(), "version": package.__version__,
        "license": "AGPL-3.0 (https://ultralytics.com/license)", "docs": "https://docs.ultralytics.com",
    }  # fmt: skip
    buffer = io.BytesIO()
    torch.save(content, buffer)
    atomic.write(path, buffer.getvalue())
    return True
