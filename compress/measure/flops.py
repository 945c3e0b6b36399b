"""Operator-level cost of a torch network as it is deployed: MACs, other arithmetic, traffic, peak activations.

One forward pass on an example runs under a dispatch mode that sees every ATen operator, so functional products
(`q @ k`, scaled_dot_product_attention) count as well as modules do. Product formulas are torch's own
(torch.utils.flop_counter); what they miss is added in `_MISSING_FORMULAS`.

Conventions
-----------
macs            convolutions, linear layers and matrix products, attention included; bias is not in it.
constants       an operator whose inputs do not depend on the example is folded by every exporter: not counted.
other_flops     one FLOP per add, multiply, divide, compare, exp, sqrt. Per output element unless said otherwise:
                bias 1; elementwise 1; sigmoid, tanh 4; silu 5; hardsigmoid 4; hardswish 5; gelu 8; elu, softplus,
                mish 3, 3, 8; batch norm 2 (scale and shift); layer, group and instance norm 7; softmax 5
                (log-softmax 6); pooling: the window's size; bilinear and bicubic resizing 7 and 35; reductions,
                top-k: 1 per *input* element; attention's scale and softmax 6 per score; copies, concatenation,
                gathering, padding, nearest resizing and integer arithmetic 0.
bytes_moved     each operator reads its inputs and writes its outputs once, weights included, views free. Nothing is
                fused here, so a runtime that fuses activations moves less.
activation_bytes  the largest sum, over the execution order, of tensors already made and still needed (the example
                and the outputs included, weights not).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, mm_flop, sdpa_flop_count

from compress.errors import UserError

aten = torch.ops.aten


@dataclass(frozen=True)
class LayerCost:
    """What one module's own operators cost; a module called several times has the sum."""

    macs: int
    params: int
    bytes: int
    output: tuple[int, ...]  # shape of what its last operator wrote


@dataclass(frozen=True)
class Cost:
    """Cost of one forward pass on the example (its batch size included). See the module's conventions."""

    macs: int
    other_flops: int
    params: int
    param_bytes: int
    bytes_moved: int
    activation_bytes: int
    layers: dict[str, LayerCost] = field(repr=False)  # by module name; "" is the network itself

    @property
    def flops(self) -> int:
        return 2 * self.macs


def count(net: nn.Module, example: Tensor) -> Cost:
    """Count one evaluation-mode forward pass of `net` on `example` (b, c, h, w).

    Give the fused, deployed form of the network. Every module's train/eval mode is restored.

    Raises:
        UserError: the network has weight matrices but no product was seen (its work is hidden from torch's
            dispatcher, e.g. in numpy), or it runs an operator that hides products (`nn.LSTM`'s fused kernel).
    """
    counter = _Counter()
    # Inference tensors skip the decomposition to countable operators, so a caller's inference mode is left here.
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        _eval_mode(net),
        _plain_execution(),
        counter.watch(net),
    ):
        example = example.detach().clone()
        counter.begin(example)
        with counter:
            outputs = net(example)
    counter.finish(outputs)

    parameters = list(net.parameters())
    if counter.macs == 0 and any(p.dim() >= 2 for p in parameters):
        raise UserError("model", type(net).__name__, "no products were counted: its forward hides them from torch")
    return Cost(
        macs=counter.macs,
        other_flops=counter.other_flops,
        params=sum(p.numel() for p in parameters),
        param_bytes=sum(p.numel() * p.element_size() for p in parameters),
        bytes_moved=counter.bytes_moved,
        activation_bytes=counter.peak(),
        layers=counter.layer_costs(net),
    )


@contextmanager
def _eval_mode(net: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


@contextmanager
def _plain_execution() -> Iterator[None]:
    """One thread: on a busy machine several wait for each other and a pass takes many times as long. No fast paths:
    nn.TransformerEncoderLayer and nn.MultiheadAttention have one-kernel forms without a formula."""
    threads, enabled = torch.get_num_threads(), torch.backends.mha.get_fastpath_enabled()
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.mha.set_fastpath_enabled(enabled)


# --- products -------------------------------------------------------------------------------------------------


def _sdpa_cpu(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _mv(matrix: Tensor, vector: Tensor, **_: Any) -> int:
    return mm_flop(matrix, vector.unsqueeze(-1), out_val=None)


def _addmv(_bias: Tensor, matrix: Tensor, vector: Tensor, **_: Any) -> int:
    return 2 * matrix.numel()


def _dot(left: Tensor, _right: Tensor, **_: Any) -> int:
    return 2 * left.numel()


def _addbmm(_bias: Tensor, left: Tensor, right: Tensor, **_: Any) -> int:
    return 2 * left.numel() * right.shape[-1]


# torch 2.14 counts 0 for attention on the CPU (pytorch#195460) and for products with a vector.
_MISSING_FORMULAS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _sdpa_cpu,
    aten.mv: _mv,
    aten.addmv: _addmv,
    aten.dot: _dot,
    aten.addbmm: _addbmm,
}
_FORMULAS: dict[Any, Callable[..., int]] = {**flop_registry, **_MISSING_FORMULAS}

_HIDING_PRODUCTS = {
    "mkldnn_rnn_layer",
    "_thnn_fused_lstm_cell",
    "_trilinear",
    "_native_multi_head_attention",
    "_transformer_encoder_layer_fwd",
}
_ATTENTION = {
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
}
_BIAS_ARGUMENT = {
    "convolution": 2,
    "_convolution": 2,
    "cudnn_convolution": 2,
    "addmm": 0,
    "baddbmm": 0,
    "addmv": 0,
}


# --- everything else --------------------------------------------------------------------------------------------

_MOVES = """
    cat stack clone copy_ _to_copy contiguous index index_put index_put_ index_select gather scatter scatter_
    embedding constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d roll flip repeat
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d pixel_shuffle pixel_unshuffle
    channel_shuffle native_channel_shuffle im2col fill_ zero_ where masked_fill masked_fill_ _unsafe_index
    slice_scatter select_scatter repeat_interleave tril triu one_hot _reshape_copy
""".split()
_PER_OUTPUT = {
    **dict.fromkeys(_MOVES, 0),
    **dict.fromkeys(["sigmoid", "sigmoid_", "tanh", "tanh_", "hardsigmoid", "hardsigmoid_"], 4),
    **dict.fromkeys(["silu", "silu_", "hardswish", "hardswish_"], 5),
    **dict.fromkeys(["gelu", "gelu_", "mish", "mish_"], 8),
    **dict.fromkeys(["elu", "elu_", "softplus"], 3),
    **dict.fromkeys(["native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"], 2),
    **dict.fromkeys(["native_layer_norm", "native_group_norm", "_fused_rms_norm"], 7),
    "_softmax": 5,
    "_log_softmax": 6,
    "upsample_bilinear2d": 7,
    "_upsample_bilinear2d_aa": 7,
    "upsample_bicubic2d": 35,
}
_PER_INPUT = set(
    """
    sum mean amax amin max min argmax argmin prod cumsum topk sort _adaptive_avg_pool2d _adaptive_avg_pool3d
    adaptive_max_pool2d adaptive_max_pool3d any all linalg_vector_norm logsumexp var std var_mean
""".split()
)
_SHAPE_ONLY = set(
    """
    new_zeros new_ones new_full new_empty zeros_like ones_like full_like empty_like new_empty_strided
""".split()
)
_WINDOWED = {"max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d"}


def _other_flops(name: str, args: tuple[Any, ...], inputs: list[Tensor], output: Tensor) -> int:
    """FLOPs outside products of one operator, by the conventions at the top."""
    if name in _BIAS_ARGUMENT:
        return output.numel() if args[_BIAS_ARGUMENT[name]] is not None else 0
    if name in _ATTENTION:
        query, key = inputs[:2]
        return 6 * prod(query.shape[:-1]) * key.shape[-2]
    if not any(tensor.is_floating_point() for tensor in inputs):
        return 0
    if name in _WINDOWED:
        dims = 3 if "3d" in name else 2
        kernel = args[1]
        return output.numel() * (prod(kernel) if len(kernel) > 1 else kernel[0] ** dims)
    if name in _PER_INPUT and len(inputs) == 1:  # max and min of two tensors are elementwise
        return inputs[0].numel()
    return _PER_OUTPUT.get(name, 1) * output.numel()


# --- the pass -----------------------------------------------------------------------------------------------------


@dataclass
class _Storage:
    """Life of one activation's memory, in operator indices."""

    size: int
    born: int
    last_use: int


class _Counter(TorchDispatchMode):
    """Counts every operator that runs while it is active, and books it on the innermost running module."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = self.other_flops = self.bytes_moved = 0
        self._time = 0  # operators so far
        self._lives: list[_Storage] = []
        self._by_key: dict[int, _Storage] = {}  # storages that depend on the example
        self._running: list[str] = [""]
        self._layers: dict[str, list[int]] = {}  # name: [macs, bytes]
        self._shapes: dict[str, tuple[int, ...]] = {}

    @contextmanager
    def watch(self, net: nn.Module) -> Iterator[None]:
        """Follow which module runs, by hooks that are gone afterwards."""

        def enter(name: str) -> Callable[..., None]:
            return lambda *_: self._running.append(name)

        def leave(*_: Any) -> None:
            self._running.pop()

        hooks = []
        for name, module in net.named_modules():
            hooks.append(module.register_forward_pre_hook(enter(name), prepend=True))
            hooks.append(module.register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def begin(self, example: Tensor) -> None:
        self._open(example)

    def finish(self, outputs: Any) -> None:
        """The outputs live until the end."""
        for tensor in _tensors(outputs):
            if (life := self._by_key.get(_key(tensor))) is not None:
                life.last_use = self._time

    def peak(self) -> int:
        changes = [0] * (self._time + 2)
        for life in self._lives:
            changes[life.born] += life.size
            changes[life.last_use + 1] -= life.size
        live = largest = 0
        for change in changes:
            live += change
            largest = max(largest, live)
        return largest

    def layer_costs(self, net: nn.Module) -> dict[str, LayerCost]:
        modules = dict(net.named_modules())
        return {
            name: LayerCost(
                macs,
                sum(p.numel() for p in modules[name].parameters(recurse=False)),
                moved,
                self._shapes[name],
            )
            for name, (macs, moved) in self._layers.items()
        }

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket not in _FORMULAS:
            with self:  # composite operators (linear, matmul, einsum) are counted as what they are made of
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        self._record(func, args, kwargs, result)
        return result

    def _record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        inputs, outputs = _tensors((args, kwargs)), _tensors(result)
        if not outputs:
            return
        shape_only = func._overloadpacket.__name__ in _SHAPE_ONLY
        if shape_only or not any(_key(tensor) in self._by_key for tensor in inputs):
            for tensor in outputs:  # a constant; it may sit where a dead activation sat
                self._by_key.pop(_key(tensor), None)
            return
        keys = {_key(tensor) for tensor in inputs}
        is_view = not func._schema.is_mutable and all(_key(tensor) in keys for tensor in outputs)
        if not is_view:
            self._time += 1
            self._book(func, args, kwargs, result, inputs, outputs)
        self._follow(keys, outputs)

    def _book(self, func: Any, args: Any, kwargs: Any, result: Any, inputs: Any, outputs: list[Tensor]) -> None:
        packet, layer = func._overloadpacket, self._running[-1]
        name = packet.__name__
        if name in _HIDING_PRODUCTS:
            raise UserError("model", f"{layer}: {name}", "this operator hides its products; write it with plain ones")
        formula = _FORMULAS.get(packet)
        macs = formula(*args, **kwargs, out_val=result) // 2 if formula else 0
        moved = sum(map(_bytes, inputs)) + sum(map(_bytes, outputs))
        self.macs += macs
        self.bytes_moved += moved
        self.other_flops += _other_flops(name, args, inputs, outputs[0])
        cost = self._layers.setdefault(layer, [0, 0])
        cost[0] += macs
        cost[1] += moved
        self._shapes[layer] = tuple(outputs[0].shape)

    def _follow(self, input_keys: set[int], outputs: list[Tensor]) -> None:
        for key in input_keys:
            if (life := self._by_key.get(key)) is not None:
                life.last_use = self._time
        for tensor in outputs:
            key = _key(tensor)
            if key not in input_keys or key not in self._by_key:
                self._open(tensor)

    def _open(self, tensor: Tensor) -> None:
        life = _Storage(tensor.untyped_storage().nbytes(), self._time, self._time)
        self._lives.append(life)
        self._by_key[_key(tensor)] = life


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _key(tensor: Tensor) -> int:
    """Identity of a tensor's memory while that lives. Addresses are reused: an output not among the inputs is new."""
    return tensor.untyped_storage()._cdata


def _bytes(tensor: Tensor) -> int:
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())  # expanded: read once
