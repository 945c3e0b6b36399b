"""Networks named by import path. The user may name any network class on the command line. A file may come from an
untrusted author, so it may name only what this package and its libraries provide, unless the user trusts it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import nn

from compress import user_code
from compress.errors import MissingExtra, UserError, named

EXAMPLES = "compress.examples.small_cnn"  # module of this package whose networks an untrusted checkpoint may name
MOVED = {"compress.models.small_cnn.SmallCNN": "compress.examples.small_cnn.SmallCNN"}  # in older checkpoints
# Arguments of timm's `create_model` that read files, download, or replace the model class.
NOT_FROM_FILES = {
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "custom_load",
    "features_only", "in_chans",
}  # fmt: skip
MAX_PARAMETERS = 2**31  # limit for a network described in a file: 8 GiB in float32


def network(target: str, args: dict[str, Any]) -> nn.Module:
    """Calls the class or function at import path `target` with `args` and returns the network, in float32. Only
    subclasses of `nn.Module`, and functions defined in the module (or package) that `target` names, are called. Raises
    UserError if the target cannot be imported, is neither, raises, or does not return an `nn.Module`."""
    factory = _factory(target)
    try:
        net = factory(**args)
    except (Exception, SystemExit) as error:  # the user's own code
        raise UserError("model.args", args, f"{target} raised {named(error)}") from error
    if not isinstance(net, nn.Module):
        raise UserError("model.target", target, f"returns {type(net).__name__}, not a torch.nn.Module")
    return net.float()


def require_timm() -> Any:
    """The package `timm`, with the telemetry of its download library disabled. Raises MissingExtra if it is absent."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read once, when huggingface_hub is imported
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MissingExtra("model.family", "timm", "timm") from error
    return timm


def check_provided(constructor: dict[str, Any], channels: int) -> None:
    """Raises UserError if building the `module` or `timm` network that a file describes would import code from
    elsewhere or read other files, or if it is too large."""
    args = constructor.get("args")
    if not isinstance(args, dict):
        raise UserError("checkpoint", args, "the arguments of a network must be a map of names to values")
    if constructor["family"] == "timm":
        timm = require_timm()
        if names := sorted(NOT_FROM_FILES & args.keys()):
            raise UserError("checkpoint", constructor.get("name"), f"its model.json must not set {', '.join(names)}")
        name = constructor.get("name")
        if isinstance(name, str) and timm.is_model(name):  # other names are rejected when the network is built
            check_size(lambda: timm.create_model(name, pretrained=False, in_chans=channels, **args), name)
        return
    target = constructor.get("target")
    if not isinstance(target, str) or not re.fullmatch(re.escape(EXAMPLES) + r"\.[A-Za-z]\w*", target):
        why = "its model.json names code outside this package, which would be imported and called: set "
        why += "model.trust=true, or use compress.load(path, trust=True), if you trust it"
        raise UserError("checkpoint", target, why)
    factory = _factory(target)
    if not isinstance(factory, type) or factory.__module__ != EXAMPLES:
        raise UserError("checkpoint", target, f"is not a network of {EXAMPLES}")
    check_size(lambda: factory(**args), target)


def check_size(make: Callable[[], nn.Module], name: object) -> None:
    """Raises UserError if the network that `make` returns has more than `MAX_PARAMETERS` weights. It is built on the
    meta device, which allocates none; if that fails, the check passes, and building it normally reports the error."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            count = sum(value.numel() for value in make().state_dict().values())
    except (OverflowError, MemoryError, RecursionError) as error:
        raise UserError("checkpoint", name, f"the network it describes cannot be built ({named(error)})") from error
    except Exception:  # wrong arguments, or code that needs values
        return
    if count > MAX_PARAMETERS:
        raise UserError("checkpoint", name, f"describes a network of {count:,} weights: damaged or altered")


def _factory(target: str) -> Callable[..., Any]:
    """Imports the class or function at `target`."""
    module = target.rpartition(".")[0]
    imported = user_code.find("model.target", target, "a subclass of torch.nn.Module")
    if isinstance(imported, type) and issubclass(imported, nn.Module):
        return imported
    own = isinstance(imported, FunctionType) and f"{imported.__module__}.".startswith(f"{module}.")
    if own and module.partition(".")[0] != "torch":  # torch.hub.load and others run code from files
        return imported
    kind = f"the class {imported.__name__}" if isinstance(imported, type) else f"a {type(imported).__name__}"
    why = f"is {kind}: use a subclass of torch.nn.Module, or a function defined in {module} that returns one"
    raise UserError("model.target", target, why)
