"""Forms of a torch network that can be counted: modules, TorchScript, and programs of torch.export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from compress.errors import UserError, one_line

Network = nn.Module | ExportedProgram
_MODES = {"training", "train"}  # arguments of operators that behave differently in training
_RECURRENT = {"LSTM", "GRU", "RNN"}


def as_module(net: Network) -> nn.Module:
    """The module that runs a network. Raises UserError for a frozen module of TorchScript, whose parameters are
    constants, and for a program that was exported in training mode, which cannot be changed."""
    module = net.module() if isinstance(net, ExportedProgram) else net
    if isinstance(module, torch.jit.ScriptModule) and not hasattr(module, "training"):
        remedy = "its parameters are constants and cannot be counted: use the module before torch.jit.freeze"
        raise UserError("model", type(net).__name__, remedy)
    for node in module.graph.nodes if isinstance(module, fx.GraphModule) and _is_exported(module) else ():
        if isinstance(node.target, torch._ops.OpOverload) and _trains(node):
            remedy = f"exported in training mode ({node.target}): export net.eval()"
            raise UserError("model", type(net).__name__, remedy)
    return module


def _is_exported(net: nn.Module) -> bool:
    """Whether a module is that of an exported program, whose mode is fixed."""
    return isinstance(net, fx.GraphModule) and "eval" in vars(net)  # replaced by one that raises


def channels(net: nn.Module) -> int:
    """Channels of the images that a network takes: those of its first convolution, 3 without any."""
    found = (layer.in_channels for layer in net.modules() if isinstance(layer, nn.Conv2d))
    scripted = (p.shape[1] for p in net.parameters() if p.dim() == 4 and isinstance(net, torch.jit.ScriptModule))
    return next(found, next(scripted, 3))


def example(program: ExportedProgram, imgsz: int | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs of a program, positional and by keyword: those that it was exported with; if `imgsz` is not None, an image
    (1, c, imgsz, imgsz) of zeros. Raises UserError if the program has no example, or a fixed size that differs."""
    args, kwargs = program.example_inputs or ((), {})
    if not args and not kwargs:
        raise UserError("model", type(program).__name__, "it has no example input: use compress.measure(model, input)")
    if imgsz is None:
        return args, kwargs
    image = args[0] if len(args) == 1 and not kwargs else None  # type: ignore[misc]
    if not isinstance(image, Tensor) or image.dim() != 4:
        raise UserError("imgsz", imgsz, "the program does not take one image: use compress.measure(model, input)")
    resized = torch.zeros(1, image.shape[1], imgsz, imgsz)
    try:
        with torch.no_grad():
            program.module()(resized)
    except (AssertionError, RuntimeError) as error:
        remedy = f"the program takes no image of {imgsz} px ({one_line(error)}): export it for this size"
        raise UserError("imgsz", imgsz, remedy) from error
    return (resized,), {}


def _trains(node: fx.Node) -> bool:
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [argument.name for argument in node.target._schema.arguments]
    values = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return any(values.get(name) is True for name in _MODES)


def recurrent_modules(net: nn.Module) -> set[str]:
    """Names of the modules that call operators of torch's recurrent layers: the layers themselves; of those in
    TorchScript or an exported program, the module around it."""
    modules = dict(net.named_modules())
    names = set()
    for name, module in modules.items():
        if isinstance(module, nn.RNNBase):
            names.add(name)
        elif isinstance(module, torch.jit.ScriptModule) and module.original_name in _RECURRENT:
            while name and isinstance(modules[name], torch.jit.ScriptModule):
                name = name.rpartition(".")[0]
            names.add(name)
        elif isinstance(module, fx.GraphModule):
            stacks = (node.meta.get("nn_module_stack") or {} for node in module.graph.nodes)
            kinds = {str(kind).rpartition(".")[2].strip("'>") for stack in stacks for _, kind in stack.values()}
            names |= {name} if kinds & _RECURRENT else set()
    return names


@contextmanager
def evaluation(net: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the modes of all modules are restored."""
    training = {module: module.training for module in net.modules()}
    if not _is_exported(net):  # those are in evaluation mode, see `as_module`
        net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in training.items():
            if module.training != mode:
                module.training = mode


@contextmanager
def plain_execution() -> Iterator[None]:
    """Sets one thread and disables fast paths. On a busy machine several threads wait for each other, and a pass takes
    many times as long. The fast paths of nn.TransformerEncoderLayer and nn.MultiheadAttention, and the fused operators
    of TorchScript, have no formula."""
    threads, enabled = torch.get_num_threads(), torch.backends.mha.get_fastpath_enabled()
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.jit.optimized_execution(False):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.mha.set_fastpath_enabled(enabled)
