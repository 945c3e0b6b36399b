"""Operator-level cost of a deployed torch network: MACs, other arithmetic, memory traffic, peak activations.

One forward pass on an example runs under a dispatch mode that sees every ATen operator, so functional products
(`q @ k`, scaled_dot_product_attention) are counted as well as modules. Product formulas are those of
torch.utils.flop_counter; `compress/measurement/operators.py` adds the missing ones.

Conventions
-----------
macs            convolutions, linear layers and matrix products, including attention, without bias.
                A complex multiply-add is 4 MACs. An operator without a formula that may contain products is refused;
                the error names it and its module.
constants       operators whose inputs do not depend on the example are not counted, because exporters fold them. The
                initial state of torch's recurrent layers is an input, not a constant; that of cells is a constant.
other_flops     one FLOP per add, multiply, divide, compare, exp, sqrt. Per output element unless said otherwise:
                bias 1; elementwise 1; sigmoid, tanh 4; silu 5; hardsigmoid 4; hardswish 5; gelu 8; elu, softplus,
                mish 3, 3, 8; batch norm 2 (scale and shift); layer, group and instance norm 7; softmax 5
                (log-softmax 6); pooling: the window's size; bilinear and bicubic resizing 7 and 35; reductions,
                top-k: 1 per *input* element; Fourier transforms as in `fourier.py`; attention's scale and softmax 6
                per score; copies, concatenation, gathering, padding, nearest resizing and integer arithmetic 0.
bytes_moved     each operator reads its inputs and writes its outputs once, including weights, except views and the
                indices of max-pooling. Embeddings and gathering read only what they select. Nothing is fused, so a
                runtime that fuses activations moves less.
activation_bytes  the largest size, over the execution order, of all tensors already computed and still needed,
                including the example and the outputs but not the weights.
activation_bytes_in_place
                the same if elementwise operators write over an input that is not needed any more, as runtimes compute
                them in place or fuse them into the operator before them; inputs of the network are kept.
bit_operations  MACs x bits of the weights x bits of the activations (van Baalen et al., Bayesian Bits, NeurIPS 2020,
                arXiv:2005.07093): 64 per MAC in INT8, 1,024 in float32.
unknown         with `unknown="warn"`, operators without a formula and their calls. Only their bytes are added to the
                other numbers (of control flow, nothing), which are then lower bounds.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from compress.errors import UserError
from compress.measurement import operators, programs
from compress.measurement.activation_memory import Life, peak_bytes, peak_bytes_in_place
from compress.measurement.cost import APART, Cost, LayerCost, Unknown
from compress.measurement.operators import FORMULAS, SHAPE_ONLY, formula_of, may_hide_products, other_flops
from compress.measurement.programs import Network
from compress.measurement.quantized_operators import packed_macs, packed_parameters

aten = torch.ops.aten
REFUSED = "products in this operator cannot be counted: write it with torch's convolutions and matrix products"
GATHERS = {"embedding", "index_select", "gather", "index"}
log = logging.getLogger(__name__)
WITH_INDICES = {"max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool3d"}


def count(net: Network, *inputs: Any, kwargs: Mapping[str, Any] | None = None, unknown: Unknown = "error") -> Cost:
    """Counts one forward pass `net(*inputs, **kwargs)` of a deployed form with fused batch norms, in evaluation mode;
    train/eval modes are restored. Operators of TorchScript and of exported programs count for the module that calls
    them, mostly the network itself: `layers` has no names within.

    Args:
        inputs: as `net` takes them: tensors, or nested tuples, lists and dicts of tensors, such as an image
            (b, c, h, w). Their values are not changed.
        kwargs: inputs by keyword.
        unknown: what to do about operators that may compute products and have no formula. "error" refuses them, "warn"
            logs each once and counts its calls apart, in `Cost.unknown`.

    Raises:
        UserError: no products were counted, and no operator of torch uses one of the network's weight matrices (its
            forward computes elsewhere, e.g. in numpy); or the products of an operator cannot be counted (the message
            names it); or the program was frozen, or exported in training mode.
    """
    module = programs.as_module(net)
    counter = _Counter(unknown)
    # Inference tensors skip the decomposition to countable operators, so inference mode is disabled.
    with torch.inference_mode(False), programs.evaluation(module), programs.plain_execution(), counter.watch(module):
        copies: dict[int, Tensor] = {}  # a tensor that is passed twice stays one tensor
        for tensor in _tensors((inputs, kwargs)):
            copies.setdefault(id(tensor), tensor.detach().clone())
        for tensor in copies.values():
            counter.open(tensor)
        given, named = tree_map_only(Tensor, lambda tensor: copies[id(tensor)], (inputs, dict(kwargs or {})))
        try:
            with counter:
                outputs = module(*given, **named)
        except RuntimeError:
            if counter.refusal is None:
                raise
            raise counter.refusal from None  # TorchScript replaces errors by its own
    counter.use(map(_key, _tensors(outputs)))

    parameters = [*module.parameters(), *packed_parameters(module)]
    matrices = [p for p in parameters if p.dim() >= 2]
    if counter.macs == 0 and not counter.unknown and not counter.read.issuperset(map(_key, matrices)):
        raise UserError("model", type(net).__name__, "no products were counted: use torch operators in its forward")
    return Cost(
        macs=counter.macs,
        params=sum(p.numel() for p in parameters),
        param_bytes=sum(p.numel() * p.element_size() for p in parameters),
        bytes_moved=counter.bytes_moved,
        activation_bytes=peak_bytes(counter.lives),
        activation_bytes_in_place=peak_bytes_in_place(counter.lives, counter.elementwise),
        layers=counter.layer_costs(module),
        unknown=dict(counter.unknown),
    )


@dataclass
class _Sums:
    """Sums over the operators of a module."""

    macs: int = 0
    bytes: int = 0
    other: Counter[str] = field(default_factory=Counter)  # FLOPs by kind
    output: tuple[int, ...] = ()
    bit_operations: int = 0


class _Counter(TorchDispatchMode):
    """Counts every operator that runs while it is active, for the innermost running module."""

    supports_higher_order_operators = True  # so that __torch_dispatch__ sees and refuses them

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here; to exclude this class, torch would import its compiler for 2 s

    def __init__(self, unknown: Unknown) -> None:
        super().__init__()
        self.macs = self.bytes_moved = 0
        self._warns = unknown == "warn"
        self.unknown: Counter[str] = Counter()
        self.refusal: UserError | None = None
        self._time = 0  # operators so far
        self.lives: list[Life] = []
        self.elementwise: list[tuple[Life, list[Life]]] = []  # output and inputs of elementwise operators
        self.read: set[int] = set()  # storages that operators on the example read
        self._by_key: dict[int, Life] = {}  # storages that depend on the example
        self._running: list[str] = [""]
        self._recurrent: set[str] = set()  # names of torch's recurrent layers
        self._layers: dict[str, _Sums] = {}

    @contextmanager
    def watch(self, net: nn.Module) -> Iterator[None]:
        """Tracks the running module by temporary hooks."""

        def leave(*_: Any) -> None:
            self._running.pop()

        with ExitStack() as hooks:
            self._recurrent |= programs.recurrent_modules(net)
            for name, module in net.named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    continue  # takes no hooks
                enter = module.register_forward_pre_hook(lambda *_, name=name: self._running.append(name), prepend=True)
                hooks.callback(enter.remove)
                hooks.callback(module.register_forward_hook(leave, always_call=True).remove)
            yield

    def layer_costs(self, net: nn.Module) -> dict[str, LayerCost]:
        modules = dict(net.named_modules())
        params = {name: sum(p.numel() for p in modules[name].parameters(recurse=False)) for name in self._layers}
        return {
            name: LayerCost(each.macs, params[name], each.bytes, each.output, dict(each.other), each.bit_operations)
            for name, each in self._layers.items()
        }

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            self._refuse(str(func))
            result = func(*args, **kwargs)  # what runs within is not seen
            self.use(map(_key, _tensors((args, kwargs))))
            for tensor in _tensors(result):
                self.open(tensor)
            return result
        if func._overloadpacket not in FORMULAS:
            with self:  # composite operators (linear, matmul, einsum) are counted by their parts
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        self._record(func, args, kwargs, result)
        return result

    def _refuse(self, name: str) -> None:
        """Raises UserError for an operator without a formula, or counts it apart."""
        where = f"{self._running[-1] or 'forward'}: {name}"
        if not self._warns:
            self.refusal = UserError("model", where, REFUSED)
            raise self.refusal
        if not self.unknown[name]:
            log.warning(APART, where)
        self.unknown[name] += 1

    def _record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        inputs, outputs = _tensors((args, kwargs)), _tensors(result)
        if not outputs:
            return
        if not inputs and self._running[-1] in self._recurrent:
            for tensor in outputs:  # the initial state
                self.open(tensor)
            return
        keys = {_key(tensor) for tensor in inputs}
        if func._overloadpacket.__name__ in SHAPE_ONLY or keys.isdisjoint(self._by_key):
            for tensor in outputs:  # a constant; may reuse the memory of a dead activation
                self._by_key.pop(_key(tensor), None)
            return
        moves_nothing = not func._schema.is_mutable or torch.Tag.inplace_view in func.tags  # such as transpose_
        is_view = moves_nothing and keys.issuperset(map(_key, outputs))
        if not is_view:
            self._time += 1
            self.read |= keys
            self._add_cost(func, args, kwargs, result, inputs, outputs)
        self.use(keys)
        read = [self._by_key[key] for key in map(_key, inputs) if key in self._by_key]
        for tensor in outputs:
            if _key(tensor) not in keys or _key(tensor) not in self._by_key:
                self.open(tensor)
        if not is_view and operators.is_elementwise(func) and _key(outputs[0]) not in keys:
            self.elementwise.append((self._by_key[_key(outputs[0])], read))

    def _add_cost(self, func: Any, args: Any, kwargs: Any, result: Any, inputs: Any, outputs: list[Tensor]) -> None:
        name, known = func._overloadpacket.__name__, True
        packed = None  # MACs with weights that are packed in INT8
        if formula := formula_of(func):
            macs = formula(*args, **kwargs, out_val=result) // 2 * (4 if outputs[0].is_complex() else 1)
        else:
            packed = packed_macs(func, args, outputs[0])
            if packed is None and may_hide_products(func, [*inputs, *outputs]):
                self._refuse(func._schema.name)
                known = False
            macs = packed or 0
        written = outputs[:1] if name in WITH_INDICES else outputs
        moved = sum(map(_bytes, inputs)) + sum(map(_bytes, written))
        if name in GATHERS:
            moved -= max(0, _bytes(inputs[0]) - _bytes(outputs[0]))
        self.macs += macs
        self.bytes_moved += moved
        sums = self._layers.setdefault(self._running[-1], _Sums())
        sums.macs += macs
        sums.bytes += moved
        sums.bit_operations += macs * (8 if packed else max(map(_bits, inputs))) ** 2
        sums.output = tuple(outputs[0].shape)
        if known and (other := other_flops(name, args, inputs, outputs[0])):
            sums.other[operators.kind_of(name)] += other

    def use(self, keys: Iterable[int]) -> None:
        """Extends the lifetimes of these tensors to the present."""
        for key in keys:
            if (life := self._by_key.get(key)) is not None:
                life.last_use = self._time

    def open(self, tensor: Tensor) -> None:
        """Starts the lifetime of a tensor."""
        life = Life(tensor.untyped_storage().nbytes(), self._time, self._time)
        self.lives.append(life)
        self._by_key[_key(tensor)] = life


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _key(tensor: Tensor) -> int:
    """Identifies a tensor's memory during its lifetime. Addresses are reused: an output that is not an input is new."""
    return tensor.untyped_storage()._cdata


def _bits(tensor: Tensor) -> int:
    """Bits of a real number."""
    return 8 * tensor.element_size() // (2 if tensor.is_complex() else 1)


def _bytes(tensor: Tensor) -> int:
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())  # expanded: read once
