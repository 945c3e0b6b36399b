"""Reads `.pt` files without running code that they name. A pickle names classes and functions and calls them.
Here every name except those torch needs for tensors is replaced by a stand-in that only stores its state. Networks of
torch's and Ultralytics' layers are rebuilt from these states; no constructor is called and no hook is restored."""

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
# Not restored: paths, settings, metrics, losses and transforms that training saves with the network.
IGNORED = (
    "ultralytics.", "torchvision.transforms.", "torch.optim.", "numpy.", "pathlib.", "datetime.", "builtins.getattr",
    "builtins.slice",
)  # fmt: skip
PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
REPLACED = {"args", "criterion", "transforms"}  # attributes of a network that are never restored, but created again
NETWORKS = ("ema", "model", "state_dict")  # keys under which files store the network, preferred first

log = logging.getLogger(__name__)


def read(path: Path, key: str, trust: bool = False) -> Any:
    """Reads what `torch.save` wrote to `path`: plain values, tensors, networks, and containers of them. Other objects
    beside the network are left out. With `trust`, a file that cannot be read this way is unpickled, which can run code
    of its author. Raises UserError for `key` if the file is missing or unreadable, or needs `trust`."""
    if not path.is_file():
        raise UserError(key, path, "no such file")
    try:
        return _read(path, key)
    except _NeedsTrust as error:
        if not trust:
            raise UserError(key, path, f"{error}: set model.trust=true to load it if you trust its author") from error
    log.warning("%s=%s is unpickled, which can run code in it", key, path)
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (Exception, SystemExit) as error:  # unpickling raises whatever the pickled code raises
        raise UserError(key, path, f"cannot be unpickled ({_shortened(error)})") from error


def network(content: Any) -> Any:
    """The network, or its state dict, in a return value of `read`: the entry that training writes, else all of it."""
    if not isinstance(content, dict):
        return content
    return next((content[name] for name in NETWORKS if content.get(name) is not None), content)


class _NeedsTrust(Exception):
    """A file cannot be read safely; the message says why."""


class _StandIn:
    """Replaces an instance of a class, or the result of a function, that a file names."""

    path: ClassVar[str] = ""
    state: Any = None

    def __init__(self, *args: object) -> None:
        """Does nothing when a pickle calls the name."""

    def __setstate__(self, state: object) -> None:
        self.state = state


def _read(path: Path, key: str) -> Any:
    _check_archive(path)
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception as error:  # TorchScript, opcodes that torch never writes, a damaged archive
        raise _NeedsTrust(f"the names in it cannot be listed ({_shortened(error)})") from error
    if any(name.startswith("ultralytics.") for name in names):
        require_ultralytics()
    kinds = {name: _layer(name) for name in names}
    unknown = [name for name, kind in kinds.items() if kind is None and not name.startswith(IGNORED)]
    if unknown:
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        shown = ", ".join(name[:80] for name in unknown[:8]) + more
        raise _NeedsTrust(f"names {shown}, which are not layers of torch or Ultralytics and could run code on loading")
    allowed: list[Any] = [(type("StandIn", (_StandIn,), {"path": name}), name) for name in names]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _NeedsTrust(f"cannot be loaded with weights_only=True ({_shortened(error)})") from error
    try:
        return _restored(content, _Restorer(kinds))
    except (RecursionError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise UserError(key, path, f"holds a network that cannot be rebuilt ({_shortened(error)})") from error


def _check_archive(path: Path) -> None:
    """Raises _NeedsTrust if the file is not a zip archive of uncompressed records, as `torch.save` writes it."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        why = f"is not in the format that torch.save writes since torch 1.6 ({_shortened(error)})"
        raise _NeedsTrust(why) from error
    compressed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
    if compressed or sum(record.file_size for record in records) > path.stat().st_size:
        raise _NeedsTrust("holds compressed or overlapping records, which torch.save does not write")


def _layer(name: str) -> type[nn.Module] | None:
    """The layer class of that name, from modules that are imported already; None if there is none."""
    module, _, attribute = name.rpartition(".")
    if not name.startswith(LAYERS) or module not in sys.modules:
        return None
    kind = vars(sys.modules[module]).get(attribute)
    known = isinstance(kind, type) and issubclass(kind, nn.Module) and f"{kind.__module__}.".startswith(LAYERS)
    return kind if known else None


def _restored(content: Any, restorer: _Restorer) -> Any:
    if not isinstance(content, dict):
        return restorer.value(content)
    restored = {}
    for name, value in content.items():
        try:
            restored[name] = restorer.value(value)
        except _NeedsTrust:
            if name in NETWORKS:
                raise
            log.debug("%s is not restored", name)
    return restored


class _Restorer:
    """Builds networks from stand-ins; an object that is referenced several times is built once."""

    def __init__(self, kinds: dict[str, type[nn.Module] | None]) -> None:
        self.kinds = kinds
        self.made: dict[int, tuple[Any, Any]] = {}  # {id: (loaded, restored)}; holding `loaded` keeps the id unique
        self.open: set[int] = set()  # ids of the objects in progress, to detect one that contains itself

    def value(self, loaded: Any) -> Any:
        """Raises _NeedsTrust for anything but plain values, tensors, layers, and containers of those."""
        if loaded is None or type(loaded) in PLAIN:
            return loaded
        if id(loaded) in self.made:
            return self.made[id(loaded)][1]
        if id(loaded) in self.open:
            raise ValueError("an object in it contains itself")
        self.open.add(id(loaded))
        restored = self._make(loaded)
        self.made[id(loaded)] = (loaded, restored)
        self.open.remove(id(loaded))
        return restored

    def _make(self, loaded: Any) -> Any:
        if type(loaded) in (Tensor, nn.Parameter):
            return _tensor(loaded)
        if type(loaded) in (list, tuple, set):
            return type(loaded)(self.value(item) for item in loaded)
        if type(loaded) in (dict, OrderedDict):
            return type(loaded)((self.value(name), self.value(item)) for name, item in loaded.items())
        kind = self.kinds.get(loaded.path) if isinstance(loaded, _StandIn) else None
        if kind is None:
            name = loaded.path if isinstance(loaded, _StandIn) else repr(loaded)[:80]
            raise _NeedsTrust(f"the network in it holds {name}, which is neither a layer nor a plain value")
        return self._layer(kind, loaded.state)

    def _layer(self, kind: type[nn.Module], state: Any) -> nn.Module:
        name = kind.__name__
        if not isinstance(state, dict) or not isinstance(state.get("_modules"), dict):
            raise ValueError(f"a {name} without state")
        attributes: dict[str, Any] = {}
        for key, value in state.items():
            if not isinstance(key, str):
                raise ValueError(f"an attribute of {name} is named {key!r}")
            if key in REPLACED and kind.__module__ == "ultralytics.nn.tasks":
                continue
            if key.endswith("_hooks") and value:
                raise _NeedsTrust(f"a {name} in it has hooks, which run with the network")
            if key == "forward" and isinstance(value, _StandIn) and value.path == "builtins.getattr":
                continue  # a fused layer of Ultralytics, which the caller detects by its missing parts
            if callable(getattr(kind, key, None)) and key != "type":  # Ultralytics stores a layer's name as `type`
                raise ValueError(f"attribute {key} of a {name} replaces a method")
            if key == "_modules":
                value = {child: module for child, module in value.items() if child not in REPLACED}
            attributes[key] = self.value(value)
        for store, expected in (("_modules", nn.Module), ("_parameters", nn.Parameter), ("_buffers", Tensor)):
            for key, value in attributes.get(store, {}).items():
                if not isinstance(key, str) or not (value is None or isinstance(value, expected)):
                    raise ValueError(f"{store} of a {name} contains {key!r}, which is not a {expected.__name__}")
        layer = kind.__new__(kind)
        layer.__setstate__(attributes)
        return layer


def _tensor(loaded: Tensor) -> Tensor:
    """A tensor with the same values, without attributes and hooks."""
    if loaded.layout is not torch.strided or loaded.is_quantized:
        raise ValueError("a sparse or quantized tensor")
    if loaded.numel() * loaded.element_size() > loaded.untyped_storage().nbytes():
        raise ValueError(f"a tensor {list(loaded.shape)} that is larger than its storage")
    plain = loaded.detach()
    return nn.Parameter(plain, loaded.requires_grad) if isinstance(loaded, nn.Parameter) else plain


def _shortened(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)[:300]}"
