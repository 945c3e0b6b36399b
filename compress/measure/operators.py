"""What single ATen operators cost, by the conventions that `flops.py` states."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, mm_flop, sdpa_flop_count

aten = torch.ops.aten

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


def _mkldnn_rnn(input: Tensor, weight_ih: Tensor, weight_hh: Tensor, *_: Any, **__: Any) -> int:
    """One layer in one direction: both weight matrices at every step of every sequence, input (t, b, features)."""
    return 2 * prod(input.shape[:-1]) * (weight_ih.numel() + weight_hh.numel())


def _euclidean_dist(left: Tensor, _right: Tensor, *, out_val: Tensor, **_: Any) -> int:
    return 2 * out_val.numel() * (left.shape[-1] + 2)  # torch multiplies rows that hold both squared norms too


def _trilinear(left: Tensor, weight: Tensor, right: Tensor, *_: Any, **__: Any) -> int:
    """nn.Bilinear: left (n, 1, i, 1) or (n, i), weight (o, i, j), right (n, j): x W, then its product with y."""
    out, first, second = weight.shape
    return 2 * left.numel() // first * out * second * (first + 1)


def _deform_conv2d(_input: Tensor, weight: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
    return 2 * out_val.numel() * prod(weight.shape[1:])


# torch 2.14 counts 0 for attention on the CPU (pytorch#195460) and for products with a vector.
_MISSING_FORMULAS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _sdpa_cpu,
    aten.mv: _mv,
    aten.addmv: _addmv,
    aten.dot: _dot,
    aten.addbmm: _addbmm,
    aten._int_mm: mm_flop,
    aten.mkldnn_rnn_layer: _mkldnn_rnn,
    aten._euclidean_dist: _euclidean_dist,
    aten._trilinear: _trilinear,
}
FORMULAS: dict[Any, Callable[..., int]] = {**flop_registry, **_MISSING_FORMULAS}

# By full name: torchvision registers it when it is imported.
_FORMULAS_ELSEWHERE = {"torchvision::deform_conv2d": _deform_conv2d}

# ATen operators with products inside, by the beginnings of their names.
_HIDING = tuple(
    """
    linalg_ _linalg_ _fft_ cholesky _cholesky lu_ triangular_solve ormqr geqrf _cudnn_rnn miopen_ _sparse_ sparse_
    _weight_int _scaled_mm _scaled_grouped_mm _grouped_mm _wrapped_ _mixed_dtypes _native_multi_head_attention
    _transformer_encoder_layer_fwd _triton mkldnn_linear mkldnn_convolution mkl_linear fbgemm_ quantized_ _pdist
    _dyn_quant_matmul _convert_weight _fused_sdp _scaled_dot_product _flash_attention _efficient_attention _mkldnn_
    _addmm_activation slow_conv _slow_conv conv_depthwise3d _conv_depthwise2d thnn_conv cudnn_conv _histogramdd
""".split()
)
_HARMLESS = {"linalg_vector_norm", "linalg_cross", "_linalg_check_errors", "_mkldnn_reshape", "_mkldnn_transpose"}
_ELEMENTWISE_ELSEWHERE = {"prim", "prims", "profiler"}
_TORCHVISION = {"nms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool"}


def formula_of(func: Any) -> Callable[..., int] | None:
    """The formula for an operator's products, in FLOPs; None where it has none."""
    return FORMULAS.get(func._overloadpacket) or _FORMULAS_ELSEWHERE.get(func._schema.name)


def hides_products(func: Any) -> bool:
    """Whether an operator without a formula may contain products: any outside of ATen that is not known to be without,
    and those of ATen that do."""
    namespace, _, name = func._schema.name.partition("::")
    if namespace == "aten":
        return name not in _HARMLESS and name.startswith(_HIDING)
    if namespace == "torchvision":
        return name not in _TORCHVISION
    if namespace == "quantized_decomposed":
        return not name.startswith(("quantize_", "dequantize_", "choose_qparams", "fake_quant", "convert_element"))
    return namespace not in _ELEMENTWISE_ELSEWHERE


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
SHAPE_ONLY = set(
    """
    new_zeros new_ones new_full new_empty zeros_like ones_like full_like empty_like new_empty_strided
""".split()
)
_WINDOWED = {"max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d"}


def other_flops(name: str, args: tuple[Any, ...], inputs: list[Tensor], output: Tensor) -> int:
    """FLOPs outside products of one operator, by the conventions at the top."""
    if name in _BIAS_ARGUMENT:
        return output.numel() if args[_BIAS_ARGUMENT[name]] is not None else 0
    if name in _ATTENTION:
        query, key = inputs[:2]
        return 6 * prod(query.shape[:-1]) * key.shape[-2]
    if name == "mkldnn_rnn_layer":
        return 36 * output.numel()  # 3 sigmoids, 2 tanh, 12 additions of products and biases, 4 for the state
    if not any(tensor.is_floating_point() or tensor.is_complex() for tensor in inputs):
        return 0
    if name in _WINDOWED:
        dims = 3 if "3d" in name else 2
        kernel = args[1]
        return output.numel() * (prod(kernel) if len(kernel) > 1 else kernel[0] ** dims)
    if name in _PER_INPUT and len(inputs) == 1:  # max and min of two tensors are elementwise
        return inputs[0].numel()
    return _PER_OUTPUT.get(name, 1) * output.numel()
