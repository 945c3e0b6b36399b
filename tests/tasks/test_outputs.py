"""One output is an array, several are a tuple."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.tasks.outputs import Outputs, arrays, first, from_torch, pack

ROWS, MASKS = np.zeros((1, 5, 6), np.float32), np.ones((1, 2, 4, 4), np.float32)


@pytest.mark.parametrize(("outputs", "count"), [(ROWS, 1), ((ROWS, MASKS), 2)])
def test_packing_undoes_unpacking(outputs: Outputs, count: int) -> None:
    several = arrays(outputs)
    assert len(several) == count and several[0] is ROWS and first(outputs) is ROWS
    packed = pack(iter(several))
    assert isinstance(packed, tuple) == (count > 1)
    assert all(one is two for one, two in zip(arrays(packed), several, strict=True))


def test_tensors_of_a_network_come_in_the_order_in_which_they_are_exported() -> None:
    tensor = torch.arange(3.0)
    assert from_torch(tensor).tolist() == from_torch([tensor]).tolist() == [0, 1, 2]  # type: ignore[union-attr]
    nested = from_torch((tensor, {"masks": [tensor + 1], "more": tensor + 2}))
    assert [array.tolist() for array in arrays(nested)] == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
