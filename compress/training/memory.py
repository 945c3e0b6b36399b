"""Fits a training step into memory by computing a batch in parts."""

from __future__ import annotations

import logging

import torch

from compress.errors import UserError, one_line
from compress.training import distributed

log = logging.getLogger(__name__)


class Memory:
    """Into how many parts a rank's batch is cut, to fit into memory."""

    def __init__(self, batch: int, accumulate: int | None, label: str, device: torch.device) -> None:
        self.batch, self.parts = batch, accumulate or 1
        self._label, self._device, self._automatic = label, device, accumulate is None
        self._failed = 0  # images at once that did not fit, if that is an error

    def split(self, error: RuntimeError) -> None:
        """Halves the images that are computed at once, after a step has run out of memory.

        Raises:
            UserError: a single image does not fit, or there are several ranks, which would have to agree.
        """
        images = self.batch // self.parts
        if images % 2 or distributed.world() > 1:
            remedy = f"{self._device} has too little memory for {images} images at once ({one_line(error)[:200]})"
            raise UserError(
                f"{self._label}.batch", self.batch, f"{remedy}: set a smaller batch, or {self._label}.accumulate"
            )
        if not self._automatic:
            self._failed = self._failed or images
        self.parts *= 2
        if self._device.type != "cpu":
            torch.get_device_module(self._device).empty_cache()
        log.warning("%s: out of memory with %d images at once: trying %d", self._label, images, images // 2)

    def check_fit(self) -> None:
        """Called after a step that fits. Raises UserError if the user's own setting did not."""
        if self._failed:
            fits = self.batch // self.parts
            raise UserError(
                f"{self._label}.batch",
                self.batch,
                f"{self._device} has too little memory for {self._failed} images at once; {fits} fit: set "
                f"{self._label}.batch={fits}, or {self._label}.accumulate={self.parts} to compute the batch in parts",
            )


def out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch failed to allocate memory on an accelerator or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
