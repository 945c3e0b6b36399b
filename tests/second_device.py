"""A second device, `otherdevice`, for machines that have no accelerator.

Its tensors wrap CPU tensors and compute with them. As on an accelerator, an operation on tensors of both devices is an
error, and so is `.numpy()`. `install` registers it with PyTorch's interface for backends in Python, once per process.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "otherdevice"
aten = torch.ops.aten
BOTH = {aten.copy_.default, aten._to_copy.default, aten.set_.source_Tensor}  # operations that transfer


class SecondTensor(Tensor):
    """A tensor on the second device; `values_` holds its values."""

    values_: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> SecondTensor:
        wrapper = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, values.shape, strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype,
            device=torch.device(NAME, 0), requires_grad=False,
        )  # fmt: skip
        wrapper.values_ = values
        return wrapper

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"SecondTensor({self.values_!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if func._can_decompose():  # in inference mode, composite operations arrive as they are
            return func.decompose(*args, **(kwargs or {}))
        return compute(func, args, kwargs or {})

    def tolist(self) -> Any:
        """An accelerator's tensor has it too; PyTorch refuses it for subclasses."""
        return self.values_.tolist()


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    """Runs an operation on the wrapped tensors; raises RuntimeError if it mixes devices."""
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    strangers = [leaf for leaf in leaves if not isinstance(leaf, SecondTensor) and leaf.ndim > 0]
    if strangers and func not in BOTH:
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} got cpu and {NAME}")
    wrappers = {id(leaf.values_): leaf for leaf in leaves if isinstance(leaf, SecondTensor)}
    device = kwargs.get("device")
    to_cpu = func is aten._to_copy.default and device is not None and torch.device(device).type == "cpu"
    kwargs = {key: "cpu" if key == "device" and value is not None else value for key, value in kwargs.items()}
    kwargs.pop("pin_memory", None)
    unwrap = lambda leaf: leaf.values_ if isinstance(leaf, SecondTensor) else leaf  # noqa: E731
    result = func(*pytree.tree_map(unwrap, args), **pytree.tree_map(unwrap, kwargs))
    if to_cpu or (func is aten.copy_.default and not isinstance(args[0], SecondTensor)):
        return args[0] if func is aten.copy_.default else result

    def wrap(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or isinstance(leaf, SecondTensor):
            return leaf
        return wrappers.get(id(leaf)) if id(leaf) in wrappers else SecondTensor(leaf)

    return pytree.tree_map(wrap, result)


class Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def synchronize(self, device: object = None) -> None:
        pass


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    values = source.values_ if isinstance(source, SecondTensor) else source
    (target.values_ if isinstance(target, SecondTensor) else target).copy_(values)
    return target


@functools.cache
def install() -> torch.device:
    """Registers the device. Returns it."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    library = torch.library.Library("aten", "IMPL")
    for name in ("empty.memory_format", "empty_strided"):
        operation = functools.reduce(getattr, name.split(".") if "." in name else [name, "default"], aten)
        library.impl(name, lambda *args, _op=operation, **kwargs: compute(_op, args, kwargs), "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")  # of torch.tensor(…, device=NAME)
    install.library = library  # type: ignore[attr-defined]  # its registrations end with it
    return torch.device(NAME)
