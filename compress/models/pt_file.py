"""Reads `.pt` files without running anything that they name.

A pickle names classes and functions, and calls them. Here every name but torch's own for tensors is given a stand-in
that only keeps the state it is handed. Networks are made of that state afterwards: of layers of torch and Ultralytics,
holding tensors, plain values and other such layers, without their constructors being called and without hooks.
"""

from __future__ import annotations

import logging
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compress.errors import UserError, one_line
from compress.models.ultralytics_package import require_ultralytics

LAYERS = ("torch.nn.modules.", "ultralytics.nn.modules.", "ultralytics.nn.tasks.")
# Beside the network in files that training wrote: paths, settings, metrics, losses, transforms. They are left unread.
IGNORED = (
    "ultralytics.", "torchvision.transforms.", "torch.optim.", "numpy.", "pathlib.", "datetime.", "builtins.getattr",
    "builtins.slice",
)  # fmt: skip
REPLACED = {"args", "criterion", "transforms"}  # attributes of a network that are made anew, whatever the file says
NETWORKS = ("ema", "model", "state_dict")  # where files keep the network, in the order of preference
TRUST = "model.trust=true loads it all the same, if you trust its author"

log = logging.getLogger(__name__)


def read(path: Path, key: str, trust: bool = False) -> Any:
    """What `torch.save` wrote to `path`: plain values, tensors, networks, and containers of them. What stands beside
    the network and is none of these is left out.

    Args:
        key: the configuration key that names the file, for messages.
        trust: whether a file that needs more than that may be unpickled, which can run code of its author.

    Raises:
        UserError: missing or unreadable file, or one that needs trust.
    """
    if not path.is_file():
        raise UserError(key, path, "no such file")
    try:
        return _read(path, key)
    except _NeedsTrust as error:
        if not trust:
            raise UserError(key, path, f"{error}: {TRUST}") from error
    log.warning("%s=%s is unpickled, which can run code hidden in it", key, path)
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (Exception, SystemExit) as error:  # unpickling raises whatever the pickled code raises
        raise UserError(key, path, f"cannot be unpickled ({_said(error)})") from error


def network(content: Any) -> Any:
    """The network, or its state dict, in what `read` gives: where training writes it, else all of it."""
    if not isinstance(content, dict):
        return content
    return next((content[name] for name in NETWORKS if content.get(name) is not None), content)


class _NeedsTrust(Exception):
    """What cannot be read safely, and why."""


class _StandIn:
    """Stands for an object of a class, or the result of a function, that a file names."""

    path: ClassVar[str] = ""
    state: Any = None

    def __init__(self, *given: object) -> None:
        """Where a pickle calls the name: nothing happens."""

    def __new__(cls, *given: object) -> _StandIn:
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        self.state = state


def _read(path: Path, key: str) -> Any:
    _check_archive(path)
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception as error:  # TorchScript, opcodes that torch never writes, a spoilt archive
        raise _NeedsTrust(f"the names in it cannot be listed ({_said(error)})") from error
    if any(name.startswith("ultralytics.") for name in names):
        require_ultralytics()
    kinds = {name: _layer(name) for name in names}
    odd = [name for name, kind in kinds.items() if kind is None and not name.startswith(IGNORED)]
    if odd:
        more = f" and {len(odd) - 8} more" if len(odd) > 8 else ""
        shown = ", ".join(name[:80] for name in odd[:8]) + more
        raise _NeedsTrust(f"names {shown}, no layers of torch or Ultralytics, which could run code while it is loaded")
    allowed: list[Any] = [(type("StandIn", (_StandIn,), {"path": name}), name) for name in names]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _NeedsTrust(f"cannot be loaded with weights_only ({_said(error)})") from error
    try:
        return _restored(content, kinds)
    except (RecursionError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise UserError(key, path, f"holds a network that cannot be put together ({_said(error)})") from error


def _check_archive(path: Path) -> None:
    """Files of `torch.save` are zip archives of uncompressed records. Raises _NeedsTrust for all else."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _NeedsTrust(f"is not in the format that torch.save writes since torch 1.6 ({_said(error)})") from error
    packed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
    if packed or sum(record.file_size for record in records) > path.stat().st_size:
        raise _NeedsTrust("holds compressed or overlapping records, which torch.save does not write")


def _layer(name: str) -> type[nn.Module] | None:
    """The layer that a name in a file stands for, of modules that are imported already."""
    module, _, attribute = name.rpartition(".")
    if not name.startswith(LAYERS):
        return None
    found = vars(sys.modules[module]).get(attribute) if module in sys.modules else None
    known = isinstance(found, type) and issubclass(found, nn.Module) and f"{found.__module__}.".startswith(LAYERS)
    return found if known else None


def _restored(content: Any, kinds: dict[str, type[nn.Module] | None]) -> Any:
    restorer = _Restorer(kinds)
    if not isinstance(content, dict):
        return restorer.value(content)
    found = {}
    for name, value in content.items():
        try:
            found[name] = restorer.value(value)
        except _NeedsTrust:
            if name in NETWORKS:
                raise
            log.debug("%s is left unread", name)
    return found


class _Restorer:
    """Networks out of stand-ins, each object once."""

    def __init__(self, kinds: dict[str, type[nn.Module] | None]) -> None:
        self.kinds = kinds
        self.made: dict[int, tuple[Any, Any]] = {}  # {id: (given, made)}; holding what was given keeps its id its own
        self.open: set[int] = set()  # of what is being made: a network that contains itself has no end

    def value(self, given: Any) -> Any:
        """Raises _NeedsTrust for what is neither plain, a tensor, a layer, nor a container of those."""
        if given is None or type(given) in (bool, int, float, complex, str, bytes, torch.dtype, torch.device):
            return given
        if type(given) is torch.Size:
            return given
        if id(given) in self.made:
            return self.made[id(given)][1]
        if id(given) in self.open:
            raise ValueError("something in it contains itself")
        self.open.add(id(given))
        made = self._make(given)
        self.made[id(given)] = (given, made)
        self.open.remove(id(given))
        return made

    def _make(self, given: Any) -> Any:
        if type(given) in (Tensor, nn.Parameter):
            return _tensor(given)
        if type(given) in (list, tuple, set):
            return type(given)(self.value(each) for each in given)
        if type(given) in (dict, OrderedDict):
            return type(given)((self.value(name), self.value(each)) for name, each in given.items())
        kind = self.kinds.get(given.path) if isinstance(given, _StandIn) else None
        if kind is None:
            said = given.path if isinstance(given, _StandIn) else repr(given)[:80]
            raise _NeedsTrust(f"the network in it holds {said}, which is neither a layer nor plain")
        return self._layer(kind, given.state)

    def _layer(self, kind: type[nn.Module], state: Any) -> nn.Module:
        name = kind.__name__
        if not isinstance(state, dict) or not isinstance(state.get("_modules"), dict):
            raise ValueError(f"a {name} without state")
        restored: dict[str, Any] = {}
        for key, given in state.items():
            if not isinstance(key, str):
                raise ValueError(f"an attribute of {name} is named {key!r}")
            if key in REPLACED and kind.__module__ == "ultralytics.nn.tasks":
                continue
            if key.endswith("_hooks") and given:
                raise _NeedsTrust(f"a {name} in it has hooks, which run with the network")
            if key == "forward" and isinstance(given, _StandIn) and given.path == "builtins.getattr":
                continue  # Ultralytics' fused layers: the caller tells by what they lack
            if callable(getattr(kind, key, None)) and key != "type":  # Ultralytics keeps a layer's name there
                raise ValueError(f"attribute {key} of a {name} takes the place of a method")
            if key == "_modules":
                given = {child: each for child, each in given.items() if child not in REPLACED}
            restored[key] = self.value(given)
        for store, wanted in (("_modules", nn.Module), ("_parameters", nn.Parameter), ("_buffers", Tensor)):
            for key, each in restored.get(store, {}).items():
                if not isinstance(key, str) or not (each is None or isinstance(each, wanted)):
                    raise ValueError(f"{store} of a {name} hold {key!r}, which is no {wanted.__name__}")
        made = kind.__new__(kind)
        made.__setstate__(restored)
        return made


def _tensor(given: Tensor) -> Tensor:
    """A tensor of its own: attributes and hooks stay behind."""
    if given.layout is not torch.strided or given.is_quantized:
        raise ValueError("a sparse or quantized tensor")
    if given.numel() * given.element_size() > given.untyped_storage().nbytes():
        raise ValueError(f"a tensor {list(given.shape)} that is larger than what is stored of it")
    plain = given.detach()
    return nn.Parameter(plain, given.requires_grad) if isinstance(given, nn.Parameter) else plain


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)[:300]}"
