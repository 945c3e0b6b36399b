"""5 N log2 N FLOPs per complex transform, half of it if one side is real."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.measurement import flops, fourier, graph_cost
from tests.measurement.networks import Fn
from tests.onnx_operators import single


def test_by_hand() -> None:
    assert fourier.flops(8, 3, real=False) == 3 * 5 * 8 * 3
    assert fourier.flops(8, 3, real=True) == 3 * 5 * 8 * 3 // 2
    assert fourier.flops(1, 3, real=False) == 0


@pytest.mark.parametrize(
    ("function", "other"),
    [
        (torch.fft.rfft, 4 * 5 * 8 * 3 // 2),  # four rows of eight real points
        (torch.fft.fft, 4 * 5 * 8 * 3 // 2),
        (lambda x: torch.fft.fft(x.to(torch.complex64)), 4 * 5 * 8 * 3),
        (torch.fft.rfft2, 5 * 32 * 5 // 2),  # one transform of 4 x 8 points
        (lambda x: torch.fft.irfft(torch.fft.rfft(x)), 2 * 4 * 5 * 8 * 3 // 2),
        (lambda x: torch.fft.rfft(x, n=16), 4 * 5 * 16 * 4 // 2),  # padded
        (lambda x: torch.stft(x, 8, center=False, return_complex=True, window=torch.ones(8)), 4 * 60 + 4 * 8),
    ],
)
def test_transforms_in_torch(function: Callable[[Tensor], Tensor], other: int) -> None:
    cost = flops.count(Fn(function), torch.rand(4, 8))
    assert (cost.macs, cost.other_flops) == (0, other)


LENGTH, AXIS = np.array(16), np.array(1)


@pytest.mark.parametrize(
    ("kind", "inputs", "output", "attributes", "other"),
    [
        ("DFT", {"x": (4, 8, 1)}, (4, 8, 2), {}, 4 * 60),
        ("DFT", {"x": (4, 8, 2)}, (4, 8, 2), {}, 4 * 120),
        ("DFT", {"x": (4, 8, 1)}, (4, 5, 2), {"onesided": 1}, 4 * 60),
        ("DFT", {"x": (4, 5, 2), "length": None, "axis": AXIS}, (4, 8, 1), {"inverse": 1, "onesided": 1}, 4 * 60),
        ("DFT", {"x": (4, 8, 1), "length": LENGTH, "axis": AXIS}, (4, 16, 2), {}, 4 * 160),
        ("DFT", {"x": (4, 8, 1), "length": None, "axis": np.array(0)}, (4, 8, 2), {}, 8 * 20),
        (
            "STFT", {"x": (1, 32, 1), "step": np.array(8), "window": np.ones(8, np.float32)}, (1, 4, 5, 2), {},
            4 * 60 + 4 * 8,
        ),
        ("STFT", {"x": (1, 32, 1), "step": np.array(8), "": None, "length": np.array(8)}, (1, 4, 5, 2), {}, 4 * 60),
    ],
)  # fmt: skip
def test_transforms_in_onnx(
    kind: str, inputs: dict[str, Any], output: tuple[int, ...], attributes: dict[str, Any], other: int
) -> None:
    cost = graph_cost.count(single(kind, inputs, output, **attributes))
    assert (cost.macs, cost.other_flops) == (0, other)
