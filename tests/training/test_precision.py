"""Number formats in training."""

from __future__ import annotations

from collections import OrderedDict

import torch

from compress.training.precision import float32


def test_float32_casts_floats_only() -> None:
    half, whole = torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.int64)
    found = float32({"a": [half, (whole, half)], "b": "text"})
    assert (found["a"][0].dtype, found["a"][1][0].dtype, found["a"][1][1].dtype) == (
        torch.float32, torch.int64, torch.float32,
    )  # fmt: skip
    assert isinstance(found["a"][1], tuple)
    assert found["b"] == "text"


def test_values_keep_and_gradients_pass() -> None:
    half = torch.tensor([1.0, 3.140625], dtype=torch.bfloat16, requires_grad=True)
    found = float32([half])[0]
    assert found.tolist() == [1.0, 3.140625]
    found.sum().backward()
    assert half.grad is not None and half.grad.tolist() == [1, 1]


def test_what_is_float32_already_is_not_copied() -> None:
    tensor = torch.ones(2)
    assert float32((tensor,))[0] is tensor


def test_any_map_is_cast() -> None:
    found = float32(OrderedDict(boxes=torch.ones(1, dtype=torch.float16), none=None))
    assert found["boxes"].dtype == torch.float32 and found["none"] is None
