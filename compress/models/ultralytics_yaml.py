"""Architecture descriptions of the Ultralytics package that stand in a file: held against an allow-list of values.

The package resolves names in them as attributes of modules, evaluates the activation as Python code, and looks strings
up among its own local variables. So nothing but layers of `ultralytics.nn.modules` and `torch.nn`, activations with
literal arguments, and numbers in bounds gets through to it.
"""

from __future__ import annotations

import ast
import copy
from typing import Any

from torch import nn

from compress.errors import UserError
from compress.models import imported

WORDS = {"None", "True", "False", "nc", "kpt_shape", "nearest", "bilinear", "bicubic", "area"}
DOWNLOADS = {"TorchVision"}  # fetches weights when it is built
MAX_LAYERS, MAX_REPEATS, MAX_NUMBER = 1000, 100, 2**20


def check(yaml: Any, channels: int, classes: int) -> None:
    """Raises UserError where `yaml` could reach anything but layers, or describes a network of absurd size."""
    from ultralytics.nn import tasks

    if not isinstance(yaml, dict):
        raise _refusal(yaml, "is no description of an architecture")
    parts = [yaml.get("backbone"), yaml.get("head")]
    if not all(isinstance(part, list) and part for part in parts):
        raise _refusal(list(yaml), "an architecture has a backbone and a head")
    layers = [layer for part in parts for layer in part]  # type: ignore[union-attr]
    if len(layers) > MAX_LAYERS:
        raise _refusal(len(layers), f"an architecture has at most {MAX_LAYERS} layers")
    for layer in layers:
        _check_layer(layer)
    _check_activation(yaml.get("activation"))
    for key in ("nc", "ch", "channels", "reg_max", "depth_multiple", "width_multiple", "end2end", "kpt_shape"):
        _check_value(yaml.get(key), key)
    scales, scale = yaml.get("scales") or {}, yaml.get("scale") or ""
    if not isinstance(scales, dict) or not isinstance(scale, str) or (scales and scale and scale not in scales):
        raise _refusal(scale, "is none of the architecture's scales")
    for name, factors in scales.items():
        if not isinstance(factors, list | tuple) or len(factors) != 3:
            raise _refusal(name, "a scale is [depth, width, largest number of channels]")
        _check_value(factors, f"scale {name}")
    plain = copy.deepcopy(yaml) | {"nc": classes}
    imported.check_size(lambda: tasks.parse_model(plain, ch=channels, verbose=False)[0], yaml.get("yaml_file", "yaml"))


def _check_layer(layer: Any) -> None:
    if not isinstance(layer, list | tuple) or len(layer) != 4:
        raise _refusal(layer, "a layer is [from, repeats, module, arguments]")
    source, repeats, module, arguments = layer
    sources = source if isinstance(source, list) else [source]
    if not sources or not all(type(each) is int and abs(each) <= MAX_LAYERS for each in sources):
        raise _refusal(source, "a layer reads layers by number")
    if type(repeats) is not int or not 1 <= repeats <= MAX_REPEATS:
        raise _refusal(repeats, f"a layer is repeated 1 to {MAX_REPEATS} times")
    if not isinstance(module, str) or not _is_layer(module):
        raise _refusal(module, "is no layer that the installed ultralytics.nn.modules or torch.nn provides")
    if not isinstance(arguments, list):
        raise _refusal(arguments, "the arguments of a layer are a list")
    _check_value(arguments, f"arguments of {module}")


def _is_layer(name: str) -> bool:
    from ultralytics.nn import tasks

    if name in DOWNLOADS:
        return False
    found = getattr(nn, name[3:], None) if name.startswith("nn.") else vars(tasks).get(name)
    home = "torch.nn.modules." if name.startswith("nn.") else "ultralytics.nn.modules."
    return isinstance(found, type) and issubclass(found, nn.Module) and found.__module__.startswith(home)


def _check_value(value: Any, where: str, depth: int = 0) -> None:
    """Raises UserError for what is no number in bounds, known word, or list of them."""
    if isinstance(value, list | tuple) and depth < 3 and len(value) <= 64:
        for each in value:
            _check_value(each, where, depth + 1)
    elif not (
        value is None
        or isinstance(value, bool)
        or (isinstance(value, int | float) and abs(value) <= MAX_NUMBER)
        or (isinstance(value, str) and value in WORDS)
    ):
        raise _refusal(value, f"{where}: numbers up to {MAX_NUMBER} and {', '.join(sorted(WORDS))} are understood")


def _check_activation(said: Any) -> None:
    """`nn.SiLU()`, `torch.nn.LeakyReLU(0.1)` and the like; Ultralytics evaluates the text."""
    if said is None:
        return
    try:
        call = ast.parse(said, mode="eval").body if isinstance(said, str) and len(said) < 100 else None
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        call = None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
        kind = getattr(nn.modules.activation, call.func.attr, None)
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        if (
            ast.unparse(call.func.value) in ("nn", "torch.nn")
            and isinstance(kind, type)
            and issubclass(kind, nn.Module)
            and all(isinstance(each, ast.Constant) and isinstance(each.value, bool | int | float) for each in given)
        ):
            return
    raise _refusal(said, "is no activation of torch.nn with plain arguments, e.g. nn.SiLU()")


def _refusal(value: Any, why: str) -> UserError:
    said = repr(value)
    return UserError("checkpoint", said if len(said) < 100 else f"{said[:100]} …", f"architecture: {why}")
