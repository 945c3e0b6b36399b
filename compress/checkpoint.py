"""Pruned torch models on disk without pickle: `model.safetensors` for numbers, `model.json` for how to rebuild.

A pruned network is its constructor's network with other widths, and the widths can be read off the tensors: so a
loader builds the full network, sets every layer to the shape of its tensors, and fills them in.
"""

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
TENSORS, FACTS = "model.safetensors", "model.json"
# Beyond what any model here has; a file that says more is damaged, or made to fill the memory.
MAX_FACTS_BYTES = 2**26
MAX_CLASSES, MAX_CHANNELS, MAX_SIDE = 100_000, 1024, 16_384


def save(model: Checkpointable, folder: Path, reference: Mapping[str, Any] | None = None) -> None:
    """Write `model` to `folder`.

    The facts are renamed into place last and name the hash of the tensors, so a reader finds a whole checkpoint,
    the one before, or an error; never a mixture. `reference` says what the model was pruned from: see
    `compress.reference.facts`.
    """
    tensors = _tensors(model.net)
    data = serialise(tensors)
    written = {
        "schema_version": SCHEMA_VERSION,
        "constructor": model.constructor(),
        "tensors": {"file": TENSORS, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)},
        "shapes": {name: list(value.shape) for name, value in tensors.items()},
        **({"reference": dict(reference)} if reference else {}),
    }
    facts = json.loads(json.dumps(written))  # as a reader finds them: keys are strings, tuples are lists
    atomic.write(folder / TENSORS, data)
    atomic.write(folder / FACTS, json.dumps({**facts, "sha256": digest(facts)}, indent=1))


def tensor_file_bytes(net: nn.Module) -> int:
    """Bytes of the file `model.safetensors` that `save` writes for `net`: parameters and buffers as they are stored,
    and the header. Nothing is written."""
    return len(serialise(_tensors(net)))


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in net.state_dict().items()}


def load(folder: Path, build: Callable[[dict[str, Any]], Checkpointable]) -> Checkpointable:
    """The model that `save` wrote, bit for bit. `build` makes the unpruned one: `compress.models.from_constructor`.

    Raises:
        UserError: files missing, changed, cut short, not fitting the network that `build` makes, or with values that
            no network computes with; and what `build` raises.
    """
    facts, tensors = read(folder)
    model = build(facts["constructor"])
    resize(model.net, tensors, folder)
    model.net.load_state_dict(tensors)
    check_values(model.net, "checkpoint", folder)
    check_computes(model.net, model.example_input(), "checkpoint", folder)
    return model


def check_computes(net: nn.Module, example: Tensor, key: str, source: object) -> None:
    """Raises UserError where the network fails on an image, or answers with what is not a number: layers whose widths
    do not fit each other, say, or weights beyond the range of float32."""
    try:
        with torch.no_grad():  # on a copy: networks keep what they computed last
            found = tree_leaves(copy.deepcopy(net).eval()(example))
    except Exception as error:
        why = f"the network cannot compute with these tensors ({named(error)})"
        raise UserError(key, source, why) from error
    if any(isinstance(each, Tensor) and torch.isnan(each).any() for each in found):
        raise UserError(key, source, "the network answers with NaN: are its weights damaged?")


def check_values(net: nn.Module, key: str, source: object) -> None:
    """Raises UserError where a weight is infinite, or a weight or a buffer is not a number."""
    for name, value in net.named_parameters():
        if not torch.isfinite(value).all():
            raise UserError(key, source, f"tensor {name} holds infinite values or NaN")
    for name, buffer in net.named_buffers():  # masks may be infinite
        if torch.isnan(buffer).any():
            raise UserError(key, source, f"tensor {name} holds NaN")


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `model.json` says, and the tensors by name, checked against it.

    Raises:
        UserError: files missing, unreadable, of another schema, or changed since they were written.
    """
    facts = describe(folder)
    try:
        data = (folder / TENSORS).read_bytes()
    except OSError as error:
        raise UserError("checkpoint", folder, f"not a readable checkpoint folder ({error})") from error
    if hashlib.sha256(data).hexdigest() != facts["tensors"].get("sha256"):
        raise UserError("checkpoint", folder / TENSORS, f"does not match the hash in {FACTS}: damaged or exchanged")
    try:
        return facts, parse(data)
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise UserError("checkpoint", folder / TENSORS, f"not readable ({error})") from error


def describe(folder: Path) -> dict[str, Any]:
    """What `model.json` says; the tensors are not read.

    Raises:
        UserError: files missing, unreadable, of another schema, or changed since they were written.
    """
    try:
        for name in (FACTS, TENSORS):
            if not (folder / name).is_file():  # reading a pipe would wait for ever
                raise FileNotFoundError(f"no file {name}")
        if (folder / FACTS).stat().st_size > MAX_FACTS_BYTES:
            raise ValueError(f"{FACTS} is larger than {MAX_FACTS_BYTES} bytes")
        facts = json.loads((folder / FACTS).read_text(), object_pairs_hook=_once, parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError("checkpoint", folder, f"not a readable checkpoint folder ({error})") from error
    wanted = {"schema_version": int, "constructor": dict, "tensors": dict}
    if not isinstance(facts, dict) or any(not isinstance(facts.get(key), kind) for key, kind in wanted.items()):
        raise UserError("checkpoint", folder / FACTS, "does not describe a checkpoint")
    own = facts.pop("sha256", None)  # shipped baselines are older than this field
    if own is not None and own != digest(facts):
        raise UserError("checkpoint", folder / FACTS, "does not match its own hash: damaged or altered")
    if facts["schema_version"] != SCHEMA_VERSION:
        raise UserError("checkpoint", folder, f"schema {facts['schema_version']}, this version reads {SCHEMA_VERSION}")
    _check_constructor(facts["constructor"], folder / FACTS)
    return facts


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a key that stands twice, readers disagree which counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _check_constructor(facts: dict[str, Any], source: Path) -> None:
    """Raises UserError where what every family says of itself is of another type, or out of bounds."""

    def texts(value: object, most: int) -> bool:
        return isinstance(value, list) and len(value) <= most and all(isinstance(each, str) for each in value)

    def count(value: object, most: int) -> bool:
        return type(value) is int and 1 <= value <= most

    def numbers(value: object) -> bool:
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_CHANNELS:
            return False
        return all(type(each) is float and math.isfinite(each) for each in value)

    rules: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "name": ("a text", lambda value: isinstance(value, str)),
        "classes": (f"1 to {MAX_CLASSES} texts", lambda value: texts(value, MAX_CLASSES) and bool(value)),
        "channels": (f"1 to {MAX_CHANNELS}", lambda value: count(value, MAX_CHANNELS)),
        "imgsz": (f"1 to {MAX_SIDE} pixels", lambda value: count(value, MAX_SIDE)),
        "protected": ("names of modules", lambda value: texts(value, 100_000)),
        "split": ("true or false", lambda value: isinstance(value, bool)),
        "activation": ("a name or null", lambda value: value is None or isinstance(value, str)),
        "mean": ("numbers", numbers),
        "std": ("positive numbers", lambda value: numbers(value) and min(value) > 0),
    }
    for key, (wanted, rule) in rules.items():
        if key in facts and not rule(facts[key]):
            said = repr(facts[key])[:100]
            raise UserError("checkpoint", source, f"{key} is {said}, wanted is {wanted}: damaged or altered")


def resize(net: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Give the layers of `net`, in place, the shapes of `tensors`; their values stay undefined.

    Raises:
        UserError: names differ, or a tensor has another number of dimensions.
    """
    present = net.state_dict()
    for name in present.keys() ^ tensors.keys():
        where = "is missing in the file" if name in present else "has no place in the network"
        raise UserError("checkpoint", source, f"tensor {name} {where}")
    for prefix, module in net.named_modules():
        changed = False
        for store in (module._parameters, module._buffers):
            for name, value in store.items():
                given = tensors.get(f"{prefix}.{name}".removeprefix("."))
                if value is None or given is None:
                    continue
                if given.is_floating_point() != value.is_floating_point():
                    raise UserError("checkpoint", source, f"tensor {prefix}.{name} holds {given.dtype}")
                if given.shape == value.shape:
                    continue
                if given.ndim != value.ndim:
                    raise UserError("checkpoint", source, f"tensor {prefix}.{name} has {given.ndim} dimensions")
                if not given.numel():
                    raise UserError("checkpoint", source, f"tensor {prefix}.{name} is empty: {list(given.shape)}")
                fresh = value.new_empty(given.shape)
                store[name] = nn.Parameter(fresh, value.requires_grad) if isinstance(value, nn.Parameter) else fresh
                changed = True
        if changed:
            _describe(module)


def _describe(module: nn.Module) -> None:
    """Let a layer's own numbers follow the shapes of its tensors."""
    if isinstance(module, _ConvNd):
        lead, follow = module.weight.shape[:2]
        if module.groups > 1 and module.groups == module.in_channels:  # depthwise: a group a channel
            module.groups = lead // (module.out_channels // module.groups)
        if isinstance(module, _ConvTransposeNd):
            module.in_channels, module.out_channels = lead, follow * module.groups
        else:
            module.out_channels, module.in_channels = lead, follow * module.groups
    elif isinstance(module, _NormBase):
        kept = module.running_mean if module.running_mean is not None else module.weight
        module.num_features = len(kept)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = len(module.weight)
