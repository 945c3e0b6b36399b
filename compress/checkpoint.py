"""Torch models on disk without pickle: tensors in `model.safetensors`, how to rebuild the network in `model.json`. The
loader builds the unpruned network, resizes every layer to the shapes of its tensors, and copies the tensors into it."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as serialise
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._pytree import tree_leaves

from compress import atomic
from compress.capabilities import Checkpointable
from compress.digest import digest
from compress.errors import UserError, named

SCHEMA_VERSION = 1
TENSORS, DESCRIPTION = "model.safetensors", "model.json"
# Above what any supported model needs: a file that exceeds a limit is damaged, or crafted to exhaust the memory.
MAX_DESCRIPTION_BYTES = 2**26
MAX_CLASSES, MAX_CHANNELS, MAX_SIDE = 100_000, 1024, 16_384


def save(model: Checkpointable, folder: Path, reference: Mapping[str, Any] | None = None) -> None:
    """Writes `model` to `folder`. `model.json` is renamed into place last and holds the hash of the tensors. So a
    reader gets the complete checkpoint, the previous one or an error, never a mixture. `reference`: the model before
    pruning, see `compress.lineage.as_dict`."""
    tensors = _tensors(model.net)
    data = serialise(tensors)
    content = {
        "schema_version": SCHEMA_VERSION,
        "constructor": model.constructor(),
        "tensors": {"file": TENSORS, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)},
        "shapes": {name: list(value.shape) for name, value in tensors.items()},
        **({"reference": dict(reference)} if reference else {}),
    }
    content = json.loads(json.dumps(content))  # hashed as it is read: keys are strings, tuples are lists
    atomic.write(folder / TENSORS, data)
    atomic.write(folder / DESCRIPTION, json.dumps({**content, "sha256": digest(content)}, indent=1))


def tensor_file_bytes(net: nn.Module) -> int:
    """Size in bytes of the `model.safetensors` that `save` would write for `net`, including the header."""
    return len(serialise(_tensors(net)))


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in net.state_dict().items()}


def load(folder: Path, build: Callable[[dict[str, Any]], Checkpointable]) -> Checkpointable:
    """Loads the model that `save` wrote, bit for bit. `build` makes the unpruned model from its constructor:
    `compress.models.from_constructor`. Raises UserError if `read` or `build` does, if the tensors do not fit the
    network, or if it cannot compute with their values."""
    content, tensors = read(folder)
    model = build(content["constructor"])
    resize(model.net, tensors, folder)
    model.net.load_state_dict(tensors)
    check_values(model.net, "checkpoint", folder)
    check_computes(model.net, model.example_input(), "checkpoint", folder)
    return model


def check_computes(net: nn.Module, example: Tensor, key: str, source: object) -> None:
    """Raises UserError if the network fails on an example image or returns NaN, for instance because widths of layers
    do not match or weights exceed the range of float32."""
    try:
        with torch.no_grad():  # on a copy, since networks may store intermediate results
            outputs = tree_leaves(copy.deepcopy(net).eval()(example))
    except Exception as error:
        raise UserError(key, source, f"the network cannot compute with these tensors ({named(error)})") from error
    if any(isinstance(output, Tensor) and torch.isnan(output).any() for output in outputs):
        raise UserError(key, source, "the network returns NaN: check its weights")


def check_values(net: nn.Module, key: str, source: object) -> None:
    """Raises UserError if a parameter is infinite or NaN, or a buffer is NaN."""
    for name, value in net.named_parameters():
        if not torch.isfinite(value).all():
            raise UserError(key, source, f"tensor {name} holds infinite values or NaN")
    for name, buffer in net.named_buffers():  # infinite values are valid in masks
        if torch.isnan(buffer).any():
            raise UserError(key, source, f"tensor {name} holds NaN")


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads the content of `model.json`, and the tensors by name, checked against their hash. Raises UserError if a
    file is missing, unreadable, of another schema, or changed since it was written."""
    content = describe(folder)
    try:
        data = (folder / TENSORS).read_bytes()
    except OSError as error:
        raise UserError("checkpoint", folder, f"not a readable checkpoint folder ({error})") from error
    if hashlib.sha256(data).hexdigest() != content["tensors"].get("sha256"):
        why = f"does not match the hash in {DESCRIPTION}: damaged or replaced"
        raise UserError("checkpoint", folder / TENSORS, why)
    try:
        return content, parse(data)
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise UserError("checkpoint", folder / TENSORS, f"not readable ({error})") from error


def describe(folder: Path) -> dict[str, Any]:
    """Reads the content of `model.json`, without the tensors. Raises UserError if a file is missing, or `model.json` is
    unreadable, of another schema, or changed."""
    try:
        for name in (DESCRIPTION, TENSORS):
            if not (folder / name).is_file():  # reading a pipe would block forever
                raise FileNotFoundError(f"no file {name}")
        if (folder / DESCRIPTION).stat().st_size > MAX_DESCRIPTION_BYTES:
            raise ValueError(f"{DESCRIPTION} is larger than {MAX_DESCRIPTION_BYTES} bytes")
        content = json.loads((folder / DESCRIPTION).read_text(), object_pairs_hook=_unique_keys, parse_constant=_reject)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError("checkpoint", folder, f"not a readable checkpoint folder ({error})") from error
    required = {"schema_version": int, "constructor": dict, "tensors": dict}
    if not isinstance(content, dict) or any(not isinstance(content.get(key), kind) for key, kind in required.items()):
        raise UserError("checkpoint", folder / DESCRIPTION, "does not describe a checkpoint")
    own = content.pop("sha256", None)  # the shipped baselines are older than this field
    if own is not None and own != digest(content):
        raise UserError("checkpoint", folder / DESCRIPTION, "does not match its own hash: damaged or altered")
    if (schema := content["schema_version"]) != SCHEMA_VERSION:
        raise UserError("checkpoint", folder, f"has schema {schema}, this version reads {SCHEMA_VERSION}")
    _check_constructor(content["constructor"], folder / DESCRIPTION)
    return content


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; rejects duplicate keys, which parsers treat differently."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key in an object")
    return result


def _reject(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _check_constructor(constructor: dict[str, Any], source: Path) -> None:
    """Raises UserError if a value that is checked here has the wrong type or is out of bounds."""

    def texts(value: object, most: int) -> bool:
        return isinstance(value, list) and len(value) <= most and all(isinstance(text, str) for text in value)

    def count(value: object, most: int) -> bool:
        return type(value) is int and 1 <= value <= most

    def numbers(value: object) -> bool:
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_CHANNELS:
            return False
        return all(type(number) is float and math.isfinite(number) for number in value)

    rules: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "name": ("a string", lambda value: isinstance(value, str)),
        "classes": (f"1 to {MAX_CLASSES} strings", lambda value: texts(value, MAX_CLASSES) and bool(value)),
        "channels": (f"1 to {MAX_CHANNELS}", lambda value: count(value, MAX_CHANNELS)),
        "imgsz": (f"1 to {MAX_SIDE} pixels", lambda value: count(value, MAX_SIDE)),
        "protected": ("names of modules", lambda value: texts(value, 100_000)),
        "split": ("true or false", lambda value: isinstance(value, bool)),
        "activation": ("a name or null", lambda value: value is None or isinstance(value, str)),
        "mean": ("numbers", numbers),
        "std": ("positive numbers", lambda value: numbers(value) and min(value) > 0),
    }
    for key, (expected, rule) in rules.items():
        if key in constructor and not rule(constructor[key]):
            value = repr(constructor[key])[:100]
            raise UserError("checkpoint", source, f"{key} is {value}, expected {expected}: damaged or altered")


def resize(net: nn.Module, tensors: dict[str, Tensor], source: object) -> None:
    """Resizes the layers of `net` in place to the shapes of `tensors`; values of resized tensors are undefined. Raises
    UserError if names differ, or a tensor is empty, of another data type, or has another number of dimensions."""
    present = net.state_dict()
    for name in present.keys() ^ tensors.keys():
        problem = "is missing in the file" if name in present else "does not exist in the network"
        raise UserError("checkpoint", source, f"tensor {name} {problem}")
    for prefix, module in net.named_modules():
        changed = False
        for store in (module._parameters, module._buffers):
            for name, value in store.items():
                stored = tensors.get(f"{prefix}.{name}".removeprefix("."))
                if value is None or stored is None:
                    continue
                tensor = f"tensor {prefix}.{name}"
                if stored.is_floating_point() != value.is_floating_point():
                    raise UserError("checkpoint", source, f"{tensor} holds {stored.dtype}")
                if stored.shape == value.shape:
                    continue
                if stored.ndim != value.ndim:
                    raise UserError("checkpoint", source, f"{tensor} has {stored.ndim} dimensions")
                if not stored.numel():
                    raise UserError("checkpoint", source, f"{tensor} is empty: {list(stored.shape)}")
                resized = value.new_empty(stored.shape)
                store[name] = nn.Parameter(resized, value.requires_grad) if isinstance(value, nn.Parameter) else resized
                changed = True
        if changed:
            _update_attributes(module)


def _update_attributes(module: nn.Module) -> None:
    """Sets a layer's attributes for its size, such as `in_channels`, from the shapes of its tensors."""
    if isinstance(module, _ConvNd):
        first, second = module.weight.shape[:2]
        if module.groups > 1 and module.groups == module.in_channels:  # depthwise: one group per input channel
            module.groups = first // (module.out_channels // module.groups)
        module.out_channels, module.in_channels = first, second * module.groups
        if isinstance(module, _ConvTransposeNd):
            module.out_channels, module.in_channels = module.in_channels, first
    elif isinstance(module, _NormBase):
        module.num_features = len(module.weight if module.running_mean is None else module.running_mean)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = len(module.weight)
