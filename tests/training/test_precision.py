"""Number formats in training."""

from __future__ import annotations

from collections import OrderedDict

import torch

from compress.training.precision import float32


def test_float32_casts_floats_only() -> None:
    half, whole = torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.int64)
    result = float32({"a": [half, (whole, half)], "b": "text"})
    assert (result["a"][0].dtype, result["a"][1][0].dtype, result["a"][1][1].dtype) == (
        torch.float32, torch.int64, torch.float32,
    )  # fmt: skip
    assert isinstance(result["a"][1], tuple)
    assert result["b"] == "text"


def test_values_keep_and_gradients_pass() -> None:
    half = torch.tensor([1.0, 3.140625], dtype=torch.bfloat16, requires_grad=True)
    result = float32([half])[0]
    assert result.tolist() == [1.0, 3.140625]
    result.sum().backward()
    assert half.grad is not None and half.grad.tolist() == [1, 1]


def test_what_is_float32_already_is_not_copied() -> None:
    tensor = torch.ones(2)
    assert float32((tensor,))[0] is tensor


def test_any_map_is_cast() -> None:
    result = float32(OrderedDict(boxes=torch.ones(1, dtype=torch.float16), none=None))
    assert result["boxes"].dtype == torch.float32 and result["none"] is None
