"""Networks named by import path or by a file: what may be imported and called on whose word.

The user may name any class of networks on the command line. A file that somebody else may have written may name only
what this package and the libraries it works with provide, unless the user trusts it.
"""

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

EXAMPLES = "compress.examples.small_cnn"  # networks of this package that `model.target` and checkpoints may name
MOVED = {"compress.models.small_cnn.SmallCNN": "compress.examples.small_cnn.SmallCNN"}  # in older checkpoints
# Arguments of timm's `create_model` that make it read files, fetch from a network, or take a class for another one.
NOT_FROM_FILES = {
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "custom_load",
    "features_only", "in_chans",
}  # fmt: skip
MAX_PARAMETERS = 2**31  # of a network that a file describes: 8 GiB in float32


def network(target: str, args: dict[str, Any]) -> nn.Module:
    """What the class or function at import path `target` returns for `args`. Only subclasses of `nn.Module`, and
    functions defined in the module (or package) that `target` names, are called.

    Raises:
        UserError: it cannot be imported, is neither, raises, or gives no module.
    """
    maker = _maker(target)
    try:
        net = maker(**args)
    except (Exception, SystemExit) as error:  # the user's own code
        raise UserError("model.args", args, f"{target} raised {named(error)}") from error
    if not isinstance(net, nn.Module):
        raise UserError("model.target", target, f"gives a {type(net).__name__}, not a torch.nn.Module")
    return net.float()


def require_timm() -> Any:
    """The package `timm`, imported without what its library for downloads would tell about the user.

    Raises:
        MissingExtra: it is not installed.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read once, when that library is imported
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MissingExtra("model.family", "timm", "timm") from error
    return timm


def check_provided(facts: dict[str, Any], channels: int) -> None:
    """Holds what a file says of a network, its family `module` or `timm`, against what is provided here.

    Raises:
        UserError: rebuilding it would import other code or read other files, or it is too large.
    """
    args = facts.get("args")
    if not isinstance(args, dict):
        raise UserError("checkpoint", args, "the arguments of a network are a map of names to values")
    if facts["family"] == "timm":
        timm = require_timm()
        if unwanted := sorted(NOT_FROM_FILES & args.keys()):
            raise UserError("checkpoint", facts.get("name"), f"its model.json may not set {', '.join(unwanted)}")
        name = facts.get("name")
        if isinstance(name, str) and timm.is_model(name):  # others are refused where they are built
            check_size(lambda: timm.create_model(name, pretrained=False, in_chans=channels, **args), name)
        return
    target = facts.get("target")
    if not isinstance(target, str) or not re.fullmatch(re.escape(EXAMPLES) + r"\.[A-Za-z]\w*", target):
        why = "its model.json names code outside this package, which would be imported and called: "
        raise UserError(
            "checkpoint", target, why + "set model.trust=true, or compress.load(path, trust=True), if you trust it"
        )
    maker = _maker(target)
    if not isinstance(maker, type) or maker.__module__ != EXAMPLES:
        raise UserError("checkpoint", target, f"is no network of {EXAMPLES}")
    check_size(lambda: maker(**args), target)


def check_size(make: Callable[[], nn.Module], name: object) -> None:
    """Builds a network without memory for its weights and counts them. What cannot be built that way is left to the
    real building.

    Raises:
        UserError: it has more than `MAX_PARAMETERS`.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            count = sum(value.numel() for value in make().state_dict().values())
    except (OverflowError, MemoryError, RecursionError) as error:
        raise UserError("checkpoint", name, f"the network it describes cannot be built ({named(error)})") from error
    except Exception:  # arguments that do not fit, or code that needs values: the real building tells
        return
    if count > MAX_PARAMETERS:
        raise UserError("checkpoint", name, f"describes a network of {count:,} weights: damaged or altered")


def _maker(target: str) -> Callable[..., Any]:
    """The class or function at an import path."""
    module = target.rpartition(".")[0]
    found = user_code.find("model.target", target, "a subclass of torch.nn.Module")
    if isinstance(found, type) and issubclass(found, nn.Module):
        return found
    own = isinstance(found, FunctionType) and f"{found.__module__}.".startswith(f"{module}.")
    if own and module.partition(".")[0] != "torch":  # torch.hub.load and the like read files and run what is in them
        return found
    kind = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
    raise UserError(
        "model.target", target,
        f"is {kind}: name a subclass of torch.nn.Module, or a function defined in {module} that returns one",
    )  # fmt: skip
