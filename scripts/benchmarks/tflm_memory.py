"""Compares the tensor arena that `budget.sram_kb` judges with the memory plan of TensorFlow Lite Micro's interpreter.

    pip install -e '.[litert]' tflite-micro     (Linux on x86-64, Python 3.10 to 3.12)
    python scripts/benchmarks/tflm_memory.py [FILE.tflite ...] [--seed 0]

Without files: digits_cnn of the recipe microcontroller, ResNet20 of 28 px, MobileNetV1 0.25 of 96 px, a network of
keypoints with transposed convolutions, and a U-Net, all untrained, in FP32 and INT8. TensorFlow Lite Micro allocates
and runs every file with its reference kernels. Columns, in bytes:

alive       largest sum of activations that are needed at the same time, as `compress profile` counts it for other
            formats (in place)
arena       our plan, `arena_bytes` of the ledger
TFLM head   activations and scratch buffers in the arena of the interpreter
TFLM tail   what the interpreter keeps there, with 64-bit pointers: less on a microcontroller

Exits with status 1 if the head differs from our plan by more than 10 %.
"""

from __future__ import annotations

import importlib
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from torch import Tensor, nn

from compress.capabilities import example_image
from compress.config import ExportConfig
from compress.errors import MissingExtra
from compress.examples.small_cnn import ResNet20, SmallCNN, SmallUNet
from compress.measurement import graph_cost
from compress.models.plain_network import PlainNetwork
from compress.targets import litert, litert_arena, litert_graph, litert_operators

TOLERANCE = 0.1
ARENA = 64 * 2**20  # bytes, more than any of these networks needs


BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *5 * [(512, 1)], (1024, 2), (1024, 1))


class MobileNetV1(nn.Module):
    """Howard et al., arXiv:1704.04861, Table 1, of a fraction of the channels: images (b, channels, s, s) to logits."""

    def __init__(self, width: float = 0.25, classes: int = 2, channels: int = 1) -> None:
        super().__init__()
        inputs = int(32 * width)
        layers = [_convolution(channels, inputs, 3, 2)]
        for outputs, stride in BLOCKS:
            layers += [_convolution(inputs, inputs, 3, stride, inputs), _convolution(inputs, int(outputs * width), 1)]
            inputs = int(outputs * width)
        self.features, self.head = nn.Sequential(*layers), nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean(dim=(2, 3)))


class Keypoints(nn.Module):
    """Maps images (b, channels, s, s), s a multiple of 8, to heat maps (b, points, s / 2, s / 2)."""

    def __init__(self, points: int = 5, width: int = 16, channels: int = 1) -> None:
        super().__init__()
        sizes = (channels, width, 2 * width, 4 * width)
        self.down = nn.Sequential(*(_convolution(a, b, 3, 2) for a, b in itertools.pairwise(sizes)))
        self.up = nn.Sequential(
            *(nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ReLU()),
            *(nn.ConvTranspose2d(2 * width, width, 2, 2), nn.ReLU()),
        )
        self.head = nn.Conv2d(width, points, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(self.down(x))).sigmoid()


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())


NETWORKS: dict[str, tuple[Callable[..., nn.Module], int]] = {
    "digits_cnn": (SmallCNN, 16),
    "ResNet20": (ResNet20, 28),
    "MobileNetV1 0.25": (MobileNetV1, 96),
    "keypoints": (Keypoints, 64),
    "U-Net": (SmallUNet, 64),
}


@dataclass(frozen=True)
class Plan:
    """Bytes of TensorFlow Lite Micro's arena."""

    head: int
    tail: int


def main() -> int:
    parser = common.parser(__doc__, seed=0)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.tflite")
    options = parser.parse_args()
    litert.require()
    if find_spec("tflite_micro") is None:
        raise MissingExtra("tflm_memory", "tflite-micro")
    largest = 0.0
    print(f"{'bytes':28} {'alive':>9} {'arena':>9} {'TFLM head':>9} difference {'TFLM tail':>9}")
    with tempfile.TemporaryDirectory() as folder:
        given = [(str(path), path) for path in options.files]
        for name, path in given or exported(Path(folder), options.seed):
            file = litert_graph.read(path)
            alive = graph_cost.count(litert_operators.to_onnx(file)).activation_bytes_in_place
            arena, tflm = litert_arena.arena_bytes(file), plan(file, Path(folder, "rewritten.tflite"))
            difference = arena / tflm.head - 1
            largest = max(largest, abs(difference))
            print(f"{name:28} {alive:9,} {arena:9,} {tflm.head:9,} {difference:10.1%} {tflm.tail:9,}", flush=True)
    print(f"largest difference {largest:.1%}, at most {TOLERANCE:.0%}: {common.met(largest <= TOLERANCE)}")
    return 0 if largest <= TOLERANCE else 1


def exported(folder: Path, seed: int) -> Iterator[tuple[str, Path]]:
    """(network and precision, file) of the networks above, calibrated on noise."""
    for name, (kind, side) in NETWORKS.items():
        torch.manual_seed(seed)
        net = kind(channels=1)
        net(torch.rand(16, 1, side, side))  # statistics of BatchNorm, so that activations have the usual range
        model = PlainNetwork(net.eval(), {}, "head", side, 1, ("a", "b"))
        images = [example_image(1, 1, side).numpy()]
        graph = litert.convert(model, folder / name / "fp32", ExportConfig())
        yield f"{name} {side} px FP32", graph.path
        yield f"{name} {side} px INT8", litert.quantize(graph, model, images, folder / name / "int8").path


def plan(file: Any, scratch: Path) -> Plan:
    """Allocates and runs a file in TensorFlow Lite Micro. Written again to `scratch` first: the weights that
    ai-edge-quantizer stores behind the flatbuffer are read wrongly."""
    runtime = importlib.import_module("tflite_micro.python.tflite_micro.runtime")
    importlib.import_module("ai_edge_litert.tools.flatbuffer_utils").write_model(file, str(scratch))
    interpreter = runtime.Interpreter.from_file(str(scratch), arena_size=ARENA)
    details = interpreter.get_input_details(0)
    interpreter.set_input(np.zeros(details["shape"], details["dtype"]), 0)
    interpreter.invoke()
    with tempfile.TemporaryFile() as output:  # it prints to file descriptor 2
        stderr = os.dup(2)
        os.dup2(output.fileno(), 2)
        try:
            interpreter.print_allocations()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        output.seek(0)
        found = dict(re.findall(r"Arena allocation (\w+) (\d+) bytes", output.read().decode()))
    return Plan(int(found["head"]), int(found["tail"]))


if __name__ == "__main__":
    sys.exit(common.run(main))
