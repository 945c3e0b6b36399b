"""Reads weights, from a shipped baseline or a file, and copies them into networks with every shape checked."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from compress import checkpoint
from compress.errors import UserError
from compress.models import pt_file

BASELINES = Path(__file__).parent / "baselines"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """Tensors by name, and the constructor of their network."""

    tensors: dict[str, Tensor]
    constructor: dict[str, Any]  # empty for a weights file without a description

    @property
    def classes(self) -> tuple[str, ...] | None:
        names = self.constructor.get("classes")
        return tuple(names) if names else None


def baselines() -> tuple[str, ...]:
    """Names of the trained models that this package ships."""
    return tuple(sorted(path.parent.name for path in BASELINES.glob(f"*/{checkpoint.DESCRIPTION}")))


def folder(source: str) -> Path | None:
    """The checkpoint folder of a shipped baseline, or the folder at path `source`; None if there is no such folder."""
    path = BASELINES / source if source in baselines() else Path(source)
    return path if path.is_dir() else None


def read(source: str, key: str = "model.weights", trust: bool = False) -> Weights:
    """Reads the weights of a shipped baseline, by name, or at the path of a checkpoint folder, .safetensors or .pt.
    With `trust`, a .pt may be unpickled, which can run code of its author. Raises UserError for `key` if there is no
    such source, or it cannot be read."""
    if (checkpoint_folder := folder(source)) is not None:
        content, tensors = checkpoint.read(checkpoint_folder)
        return Weights(tensors, content["constructor"])
    path = Path(source)
    if not path.is_file():
        known = ", ".join(baselines()) or "none in this installation"
        raise UserError(key, source, f"use a shipped baseline ({known}) or the path of a weights file")
    if path.suffix == ".safetensors":
        try:
            return Weights(load_file(path), {})
        except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise UserError(key, source, f"not a readable safetensors file ({error})") from error
    content = pt_file.read(path, key, trust)
    if not _is_state_dict(content):
        content = pt_file.network(content)
    if isinstance(content, nn.Module):
        content = content.float().state_dict()
    if not _is_state_dict(content):
        raise UserError(key, path, "contains no state dict, model or Ultralytics checkpoint")
    return Weights(content, {})


def fill(net: nn.Module, tensors: dict[str, Tensor], source: str, key: str = "model.weights") -> None:
    """Copies `tensors` into `net`. Raises UserError if one is missing, unexpected, or of another shape or data type."""
    own = net.state_dict()
    for name, value in own.items():
        if name not in tensors:
            raise UserError(key, source, f"tensor {name} {list(value.shape)} is missing: use the same architecture")
        if tensors[name].shape != value.shape:
            why = f"tensor {name} has shape {list(tensors[name].shape)}, the network expects {list(value.shape)}: "
            raise UserError(key, source, why + "use the same architecture and number of classes")
    for name, value in tensors.items():
        if name not in own:
            raise UserError(key, source, f"tensor {name} {list(value.shape)} does not exist in the network")
    _check_kinds(own, tensors, source, key)
    net.load_state_dict(tensors)


def _check_kinds(own: dict[str, Tensor], tensors: dict[str, Tensor], source: str, key: str) -> None:
    """Raises UserError if integers or complex numbers would become weights, or vice versa. Counters (BatchNorm's
    `num_batches_tracked`) may be stored as whole numbers in floating point."""
    for name, value in tensors.items():
        counter = own[name].ndim == 0 and not own[name].is_floating_point() and value.is_floating_point()
        if counter and value == value.round():
            continue
        if value.is_floating_point() != own[name].is_floating_point() or value.is_complex():
            kinds = f"{value.dtype}, the network expects {own[name].dtype}".replace("torch.", "")
            raise UserError(key, source, f"tensor {name} holds {kinds}: use the float32 weights")


def transfer(net: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Copies tensors that match by name and shape into `net`, to initialise training. The others stay unchanged. Raises
    UserError if less than half of the network's weights match, which means another architecture."""
    own = net.state_dict()
    matching = {name: value for name, value in tensors.items() if name in own and value.shape == own[name].shape}
    copied, total = sum(own[name].numel() for name in matching), sum(value.numel() for value in own.values())
    if copied < total / 2:
        raise UserError("model.init", source, f"only {copied / total:.0%} of weights fit: use the same architecture")
    _check_kinds(own, matching, source, "model.init")
    net.load_state_dict(matching, strict=False)
    log.info("%s: initialised %.1f %% of the weights, the rest is random", source, 100 * copied / total)


def _is_state_dict(content: object) -> bool:
    return isinstance(content, dict) and all(isinstance(value, Tensor) for value in content.values())
