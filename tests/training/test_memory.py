"""Batches that do not fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.tasks import Batch
from compress.training.engine import fit
from tests.halves import BATCH, Halves, loss, same, schedule, state, tiny

OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def limited_to(images: int) -> Callable[[nn.Module, Batch], Tensor]:
    """The loss on a device whose memory holds the activations of so many images."""

    def limited(net: nn.Module, batch: Batch) -> Tensor:
        if len(batch["img"]) > images:
            raise OUT_OF_MEMORY
        return loss(net, batch)

    return limited


def test_a_batch_that_does_not_fit_is_computed_in_parts() -> None:
    net, expected, batches = tiny(), tiny(), Halves()
    fit(net, limited_to(3), batches, schedule(), seed=0, accumulate=None)
    fit(expected, loss, Halves(), schedule(), seed=0, accumulate=4)
    assert same(state(net), state(expected))
    assert [stream.closed for stream in batches.streams] == [True, True, True]  # of 8, 4 and 2 images


def test_out_of_memory_names_the_batch_that_fits(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    fit(tiny(), loss, Halves(), schedule(images=5 * BATCH), seed=0, checkpoint=file)
    with pytest.raises(
        UserError, match=r"finetune\.batch=8: cpu has too little memory for 8 images at once; 2 fit: "
    ) as caught:
        fit(tiny(), limited_to(3), Halves(), schedule(), seed=0)
    assert "set finetune.batch=2, or finetune.accumulate=4" in str(caught.value)


def test_memory_too_small_for_one_image() -> None:
    with pytest.raises(UserError, match=r"too little memory for 1 images at once \(CUDA out of memory"):
        fit(tiny(), limited_to(0), Halves(), schedule(), seed=0, accumulate=None)
