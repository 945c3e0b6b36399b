"""Small networks as lines of text."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from compress.targets.bench_kit import onnx_file
from compress.targets.bench_kit.blocks import LAYERS, Block

ALL = [
    "3x64x64 normalize conv:32,3,2 bn silu maxpool:3,2 mark conv:96,1 hswish dw:5 clip se:8 conv:32,1 add leaky "
    "split conv:16,3 cat shuffle up gelu avgpool:2,2 sigmoid classify:10",
    "96x7x7 tokens mark ln attention:4 fc:96 add mean",
    "16x8x8 mark dw:7 nhwc ln fc:32 relu fc:16 nchw add conv:64,2,2 distances",
    "8x6x6 conv:20,1 sigmoid best:5",
]


@pytest.mark.parametrize("text", ALL)
def test_a_block_runs_and_has_the_shape_it_states(text: str) -> None:
    block = Block(text)
    content = onnx_file.encode(block)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    [output] = session.run(None, {"images": np.ones(block.input_shape, np.float32)})
    assert output.shape == block.output_shape and np.isfinite(output).all()


def test_the_blocks_above_contain_every_layer() -> None:
    assert {word.split(":")[0] for text in ALL for word in text.split()[1:]} == set(LAYERS)


def test_products_are_counted() -> None:
    block = Block("4x6x6 conv:8,3,2,2 fc:5")
    assert block.macs == 8 * 9 * 2 * 9 + 8 * 3 * 3 * 5 and block.weights == 8 * 2 * 9 + 8 + 3 * 5 + 5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a block"),
        ("3x8x8", "not a block"),
        ("3x8x8 conv:8,3,1,2", "groups do not divide"),
        ("3x8x8 relu:1", "does not fit"),
        ("3x8x8 add", "does not fit"),
        ("3x8x8 mark", "no layers"),
        ("3x8x8 mark conv:4,1 add", "add of"),
        ("3x8x8 import:1", "not a layer"),
        ("3x8x8 conv:99999,99", "empty|too large"),
        ("3x8x8 maxpool:98,1", "empty"),
    ],
)
def test_other_texts_are_rejected(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Block(text)
