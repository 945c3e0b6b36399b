"""A `.pt` that plain Ultralytics opens without this package: `YOLO(path).predict`, `.val`, `.export`."""

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
    """Write `model` in Ultralytics' own checkpoint format: float32, made of its stock blocks only, with no head but the
    deployed one. Training goes on from our own checkpoint.

    False, with nothing written, where a split block has halves of different widths: there is no stock block for it.
    Pruning with `prune.equal_split_widths` keeps them equal.
    """
    tensors = blocks.merged(model.net)
    if tensors is None:
        return False
    net: Any = ultralytics.from_constructor(model.constructor() | {"split": False}, trust=True).net
    checkpoint.resize(net, tensors, path)
    net.load_state_dict(tensors)
    blocks.fit_to_weights(net).eval().requires_grad_(False)
    if hasattr(net.model[-1], "fuse"):
        # Else YOLO26 would answer by its other head, which is for training, wherever `nms=False` is not asked for.
        net.model[-1].fuse()
    # Plain values only: objects of a later Ultralytics would keep an earlier one from opening the file.
    net.args = {"task": model.task.name, "imgsz": model.imgsz, "single_cls": False}
    content = {
        "epoch": -1, "best_fitness": None, "model": net, "ema": None, "updates": None, "optimizer": None,
        "train_args": net.args, "date": datetime.now().astimezone().isoformat(), "version": _version(),
        "license": "AGPL-3.0 (https://ultralytics.com/license)", "docs": "https://docs.ultralytics.com",
    }  # fmt: skip
    buffer = io.BytesIO()
    torch.save(content, buffer)
    atomic.write(path, buffer.getvalue())
    return True


def _version() -> str:
    import ultralytics as package

    return package.__version__
