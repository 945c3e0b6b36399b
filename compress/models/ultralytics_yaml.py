"""Checks architectures of the Ultralytics package that come from a file against an allow-list of values. The package
resolves names in them as attributes of modules, evaluates the activation as Python code, and looks up strings among its
own local variables. So only layers of `ultralytics.nn.modules` and `torch.nn`, activations with literal arguments, and
numbers within bounds are allowed."""

from __future__ import annotations

import ast
import copy
from typing import Any

from torch import nn

from compress.errors import UserError
from compress.models import imported

WORDS = {"None", "True", "False", "nc", "kpt_shape", "nearest", "bilinear", "bicubic", "area"}
MAX_LAYERS, MAX_REPEATS, MAX_NUMBER = 1000, 100, 2**20


def check(yaml: Any, channels: int, classes: int) -> None:
    """Raises UserError if `yaml` names anything but layers, or describes too large a network for these numbers."""
    from ultralytics.nn import tasks

    if not isinstance(yaml, dict):
        raise _error(yaml, "must be a map")
    backbone, head = yaml.get("backbone"), yaml.get("head")
    if not (isinstance(backbone, list) and backbone and isinstance(head, list) and head):
        raise _error(list(yaml), "must have a backbone and a head")
    layers = backbone + head
    if len(layers) > MAX_LAYERS:
        raise _error(len(layers), f"must have at most {MAX_LAYERS} layers")
    for layer in layers:
        _check_layer(layer)
    _check_activation(yaml.get("activation"))
    for key in ("nc", "ch", "channels", "reg_max", "depth_multiple", "width_multiple", "end2end", "kpt_shape"):
        _check_value(yaml.get(key), key)
    scales, scale = yaml.get("scales") or {}, yaml.get("scale") or ""
    if not isinstance(scales, dict) or not isinstance(scale, str) or (scales and scale and scale not in scales):
        raise _error(scale, "scale must be one of its scales")
    for name, factors in scales.items():
        if not isinstance(factors, list | tuple) or len(factors) != 3:
            raise _error(name, "a scale must be [depth, width, largest number of channels]")
        _check_value(factors, f"scale {name}")
    copied = copy.deepcopy(yaml) | {"nc": classes}
    imported.check_size(lambda: tasks.parse_model(copied, ch=channels, verbose=False)[0], yaml.get("yaml_file", "yaml"))


def _check_layer(layer: Any) -> None:
    if not isinstance(layer, list | tuple) or len(layer) != 4:
        raise _error(layer, "a layer must be [from, repeats, module, arguments]")
    source, repeats, module, arguments = layer
    sources = source if isinstance(source, list) else [source]
    if not sources or not all(type(number) is int and abs(number) <= MAX_LAYERS for number in sources):
        raise _error(source, "a layer must name its input layers by number")
    if type(repeats) is not int or not 1 <= repeats <= MAX_REPEATS:
        raise _error(repeats, f"the repeats of a layer must be 1 to {MAX_REPEATS}")
    if not isinstance(module, str) or not _is_layer(module):
        raise _error(module, "not a layer that the installed ultralytics.nn.modules or torch.nn provides")
    if not isinstance(arguments, list):
        raise _error(arguments, "the arguments of a layer must be a list")
    _check_value(arguments, f"arguments of {module}")


def _is_layer(name: str) -> bool:
    from ultralytics.nn import tasks

    if name == "TorchVision":  # it downloads weights when it is built
        return False
    kind = getattr(nn, name[3:], None) if name.startswith("nn.") else vars(tasks).get(name)
    package = "torch.nn.modules." if name.startswith("nn.") else "ultralytics.nn.modules."
    return isinstance(kind, type) and issubclass(kind, nn.Module) and kind.__module__.startswith(package)


def _check_value(value: Any, where: str, depth: int = 0) -> None:
    """Raises UserError unless `value` is a number within bounds, one of `WORDS`, or a list of those."""
    if isinstance(value, list | tuple) and depth < 3 and len(value) <= 64:
        for item in value:
            _check_value(item, where, depth + 1)
    elif not (
        value is None
        or (isinstance(value, int | float) and abs(value) <= MAX_NUMBER)
        or (isinstance(value, str) and value in WORDS)
    ):
        raise _error(value, f"{where} must be numbers up to {MAX_NUMBER} or one of {', '.join(sorted(WORDS))}")


def _check_activation(text: Any) -> None:
    """Raises UserError unless `text`, which Ultralytics evaluates, is of the form `torch.nn.LeakyReLU(0.1)`."""
    if text is None:
        return
    try:
        call = ast.parse(text, mode="eval").body if isinstance(text, str) and len(text) < 100 else None
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        call = None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
        kind = getattr(nn.modules.activation, call.func.attr, None)
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        if (
            ast.unparse(call.func.value) in ("nn", "torch.nn")
            and isinstance(kind, type)
            and issubclass(kind, nn.Module)
            and all(isinstance(arg, ast.Constant) and isinstance(arg.value, bool | int | float) for arg in arguments)
        ):
            return
    raise _error(text, "the activation must be one of torch.nn with plain arguments, e.g. nn.SiLU()")


def _error(value: Any, why: str) -> UserError:
    text = repr(value)
    return UserError("checkpoint", text if len(text) < 100 else f"{text[:100]} …", f"architecture: {why}")
