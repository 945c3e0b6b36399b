"""Weights into networks: by name of a shipped baseline, or from a file, with every shape checked."""

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
    """Tensors by name, and what is known of the network they belong to (empty where a bare file was given)."""

    tensors: dict[str, Tensor]
    constructor: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...] | None:
        names = self.constructor.get("classes")
        return tuple(names) if names else None


def baselines() -> tuple[str, ...]:
    """Names of the trained models that come with this package."""
    return tuple(sorted(path.parent.name for path in BASELINES.glob(f"*/{checkpoint.FACTS}")))


def folder(given: str) -> Path | None:
    """The checkpoint folder of a shipped baseline's name, or that `given` itself is; None where it is a file."""
    path = BASELINES / given if given in baselines() else Path(given)
    return path if path.is_dir() else None


def read(given: str, key: str = "model.weights", trust: bool = False) -> Weights:
    """Weights of a shipped baseline's name, a checkpoint folder, or a .safetensors / .pt file.

    Args:
        trust: whether a .pt that needs it may be unpickled, which can run code of its author.

    Raises:
        UserError: nothing of that name, or a file that cannot be read.
    """
    path = Path(given)
    if (checkpoint_folder := folder(given)) is not None:
        facts, tensors = checkpoint.read(checkpoint_folder)
        return Weights(tensors, facts["constructor"])
    if not path.is_file():
        known = ", ".join(baselines()) or "none in this installation"
        raise UserError(key, given, f"use a shipped baseline ({known}) or the path of a weights file")
    if path.suffix == ".safetensors":
        try:
            return Weights(load_file(path), {})
        except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise UserError(key, given, f"not a readable safetensors file ({error})") from error
    return Weights(_read_pt(path, key, trust), {})


def fill(net: nn.Module, tensors: dict[str, Tensor], source: str, key: str = "model.weights") -> None:
    """Copy `tensors` into `net`; names and shapes must agree exactly.

    Raises:
        UserError: naming the first tensor that is missing, odd in shape, or not wanted.
    """
    wanted = net.state_dict()
    for name, value in wanted.items():
        if name not in tensors:
            raise UserError(key, source, f"tensor {name} {list(value.shape)} is missing: is this another architecture?")
        if tensors[name].shape != value.shape:
            raise UserError(
                key, source,
                f"tensor {name} is {list(tensors[name].shape)}, the network wants {list(value.shape)}: "
                "is this another architecture, or another number of classes?",
            )  # fmt: skip
    for name in tensors:
        if name not in wanted:
            raise UserError(key, source, f"tensor {name} {list(tensors[name].shape)} has no place in the network")
    _check_kinds(wanted, tensors, source, key)
    net.load_state_dict(tensors)


def _check_kinds(wanted: dict[str, Tensor], given: dict[str, Tensor], source: str, key: str) -> None:
    """Raises UserError where integers or complex numbers would become weights, or the other way round. Counters (a
    batch norm's `num_batches_tracked`) may be stored as whole numbers in floating point."""
    for name, value in given.items():
        counter = wanted[name].ndim == 0 and not wanted[name].is_floating_point() and value.is_floating_point()
        if counter and value == value.round():
            continue
        if value.is_floating_point() != wanted[name].is_floating_point() or value.is_complex():
            kinds = f"{value.dtype}, the network wants {wanted[name].dtype}".replace("torch.", "")
            raise UserError(key, source, f"tensor {name} holds {kinds}: use the float32 weights")


def transfer(net: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Copies what fits by name and shape into `net`, as a start for training; the rest stays as it is and is logged.

    Raises:
        UserError: less than half of the network's weights fit, so it is another architecture.
    """
    wanted = net.state_dict()
    fitting = {name: value for name, value in tensors.items() if name in wanted and value.shape == wanted[name].shape}
    taken, total = sum(wanted[name].numel() for name in fitting), sum(value.numel() for value in wanted.values())
    if taken < total / 2:
        raise UserError(
            "model.init", source, f"only {taken / total:.0%} of the weights fit: is this another architecture?"
        )
    _check_kinds(wanted, fitting, source, "model.init")
    net.load_state_dict(fitting, strict=False)
    log.info("%s: %.1f %% of the weights start from there, the rest at random", source, 100 * taken / total)


def _read_pt(path: Path, key: str, trust: bool) -> dict[str, Tensor]:
    content = pt_file.read(path, key, trust)
    if isinstance(content, dict) and not all(isinstance(value, Tensor) for value in content.values()):
        content = pt_file.network(content)
    if isinstance(content, nn.Module):
        content = content.float().state_dict()
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(key, path, "holds no state dict, model or Ultralytics checkpoint")
    return content
