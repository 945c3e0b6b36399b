"""Cost of single ATen operators, by the conventions of `flops.py`."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, mm_flop, sdpa_flop_count

from compress.measurement import fourier

aten = torch.ops.aten


def _trilinear(left: Tensor, weight: Tensor, right: Tensor, *_: Any, **__: Any) -> int:
    """nn.Bilinear: left (n, 1, i, 1) or (n, i), weight (o, i, j), right (n, j): x W, then its product with y."""
    out, first, second = weight.shape
    return 2 * left.numel() // first * out * second * (first + 1)


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, size: int, *_: Any, **__: Any) -> int:
    """The fast path of nn.MultiheadAttention in TorchScript: four projections and two products per score."""
    return 2 * size * (2 * query.numel() + key.numel() + value.numel() + 2 * prod(query.shape[:-1]) * key.shape[-2])


# torch 2.14 counts 0 for attention on the CPU (pytorch#195460) and for products with a vector.
FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: sdpa_flop_count(
        query.shape, key.shape, value.shape
    ),
    aten.mv: lambda matrix, vector, **_: 2 * matrix.numel(),
    aten.addmv: lambda bias, matrix, vector, **_: 2 * matrix.numel(),
    aten.dot: lambda left, right, **_: 2 * left.numel(),
    aten.vdot: lambda left, right, **_: 2 * left.numel(),
    aten.addbmm: lambda bias, left, right, **_: 2 * left.numel() * right.shape[-1],
    aten._int_mm: mm_flop,
    # Weights (k, in, out).
    aten.conv_tbc: lambda input, weight, *_, out_val, **__: 2 * out_val.numel() * prod(weight.shape[:2]),
    # Per pair and dimension: one difference, raised to the power and added.
    aten._cdist_forward: lambda left, *_, out_val, **__: 2 * out_val.numel() * left.shape[-1],
    aten._pdist_forward: lambda points, *_, out_val, **__: 2 * out_val.numel() * points.shape[-1],
    # torch multiplies rows extended by both squared norms.
    aten._euclidean_dist: lambda left, right, out_val, **_: 2 * out_val.numel() * (left.shape[-1] + 2),
    # Every point of the grid times theta (n, 2, 3) or (n, 3, 4).
    aten.affine_grid_generator: lambda theta, *_, out_val, **__: 2 * out_val.numel() * theta.shape[-1],
    # One layer in one direction: both weight matrices at each step of each sequence; input (t, b, features).
    aten.mkldnn_rnn_layer: lambda input, weight_ih, weight_hh, *_, **__: (
        2 * prod(input.shape[:-1]) * (weight_ih.numel() + weight_hh.numel())
    ),
    aten._trilinear: _trilinear,
    aten._native_multi_head_attention: _fused_attention,
    # By full name: torchvision registers it when it is imported.
    "torchvision::deform_conv2d": lambda input, weight, *_, out_val, **__: 2 * out_val.numel() * prod(weight.shape[1:]),
}

# ATen operators without products that torch tags neither pointwise nor reduction and `other_flops` does not list:
# moves, random numbers and indexing, losses, norms, interpolation. By the name of the out-of-place form.
_WITHOUT_PRODUCTS = set(
    """
    _aminmax _batch_norm_no_update _batch_norm_with_update _batch_norm_with_update_functional _chunk_cat _coalesced
    _convert_indices_from_coo_to_csr _cummax_helper _cummin_helper _embedding_bag _embedding_bag_forward_only
    _fake_quantize_learnable_per_channel_affine _fake_quantize_learnable_per_tensor_affine
    _fake_quantize_per_tensor_affine_cachemask_tensor_qparams _grid_sampler_2d_cpu_fallback _index_put_impl
    _jagged_to_padded_dense_forward _lazy_clone _linalg_check_errors _local_scalar_dense _logcumsumexp
    _make_per_channel_quantized_tensor _make_per_tensor_quantized_tensor _masked_scale _masked_softmax
    _mkldnn_reshape _mkldnn_transpose _native_batch_norm_legit _native_batch_norm_legit_functional
    _nested_from_padded _nested_from_padded_tensor _nested_tensor_from_mask _nested_tensor_from_tensor_list
    _nested_tensor_softmax_with_shape _pack_padded_sequence _padded_dense_to_jagged_forward _prelu_kernel
    _resize_output _safe_softmax _stack _to_dense _transform_bias_rescale_qkv _unique _unique2 _unsafe_index_put
    _unsafe_masked_index _unsafe_masked_index_put_accumulate _unsafe_view _upsample_bicubic2d_aa
    _upsample_nearest_exact1d _upsample_nearest_exact3d _weight_norm_interface addr arange as_strided_scatter
    batch_norm_elemt bernoulli binary_cross_entropy binary_cross_entropy_with_logits block_diag bucketize col2im
    complex copy cudnn_grid_sampler cummax cummin cumprod dequantize diag_embed diagonal_scatter dist
    embedding_renorm exponential eye fake_quantize_per_channel_affine_cachemask
    fake_quantize_per_tensor_affine_cachemask fill floor_divide fractional_max_pool2d fractional_max_pool3d full
    geometric glu grid_sampler_2d grid_sampler_3d histc huber_loss index_add index_copy index_fill index_reduce
    int_repr isin kthvalue lift linalg_cross linspace log_normal log_sigmoid_forward logcumsumexp logspace
    masked_scatter masked_select max_pool3d max_unpool2d max_unpool3d median mkldnn_adaptive_avg_pool2d
    mkldnn_max_pool2d mkldnn_max_pool3d mode mse_loss multi_margin_loss multinomial nanmedian native_dropout
    native_norm nll_loss2d_forward nll_loss_forward nonzero nonzero_static normal normal_functional ones poisson
    polar put quantize_per_channel quantize_per_tensor quantize_per_tensor_dynamic rand_like randint randint_like
    randn_like random randperm reflection_pad3d renorm replication_pad3d resize resize_as rot90 rrelu_with_noise
    scalar_tensor scatter_add scatter_reduce searchsorted segment_reduce set smooth_l1_loss soft_margin_loss take
    to_mkldnn to_padded_tensor trace tril_indices triu_indices uniform unique_consecutive unique_dim
    unique_dim_consecutive unsafe_split unsafe_split_with_sizes upsample_linear1d upsample_trilinear3d zero zeros
""".split()
)
_TAGS = {torch.Tag.pointwise, torch.Tag.reduction, torch.Tag.view_copy}
_ELEMENTWISE_ELSEWHERE = {"prim", "prims", "profiler"}
_TORCHVISION = {"nms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool"}


def formula_of(func: Any) -> Callable[..., int] | None:
    """The formula of an operator's products, in FLOPs, or of its out-of-place form; None if there is none."""
    packet = func._overloadpacket
    return FORMULAS.get(packet) or FORMULAS.get(_plain(packet)) or FORMULAS.get(func._schema.name)


def is_elementwise(func: Any) -> bool:
    """Whether an operator computes each value of its output from the values at the same place, so that it can be
    computed in place."""
    name = _plain(func._overloadpacket).__name__
    return torch.Tag.pointwise in func.tags or "batch_norm" in name


def may_hide_products(func: Any, tensors: list[Tensor]) -> bool:
    """Whether an operator without a formula may contain products; true unless it is known to have none. Known are the
    operators listed in this file, those that torch tags pointwise or reduction, and those of ATen with integer tensors
    only, whose products have formulas. `tensors`: its inputs and outputs."""
    namespace, _, name = func._schema.name.partition("::")
    if namespace == "aten":
        integers = not any(t.is_floating_point() or t.is_complex() or t.is_quantized for t in tensors)
        return not (integers or _without_products(func._overloadpacket))
    if namespace == "torchvision":
        return name not in _TORCHVISION
    if namespace == "quantized_decomposed":
        return not name.startswith(("quantize_", "dequantize_", "choose_qparams", "fake_quant", "convert_element"))
    return namespace not in _ELEMENTWISE_ELSEWHERE or name.startswith(("fft_", "svd"))


def _without_products(packet: Any) -> bool:
    plain = _plain(packet)
    if {packet.__name__, plain.__name__} & _LISTED:
        return True
    overloads = [getattr(plain, name) for name in plain.overloads()]
    # A single overload may lack the tags. `view_copy` operators only move data.
    if any(not _TAGS.isdisjoint(overload.tags) for overload in overloads):
        return True
    returned = [value.alias_info for value in overloads[0]._schema.returns]
    return any(alias is not None and not alias.is_write for alias in returned)


def _plain(packet: Any) -> Any:
    """The out-of-place form of an operator."""
    name = packet.__name__
    return getattr(aten, name[:-1], packet) if name.endswith("_") and not name.endswith("__") else packet


_PRODUCTS_ALONE = {packet if isinstance(packet, str) else packet.__name__ for packet in FORMULAS}
_BIAS_ARGUMENT = {"convolution": 2, "_convolution": 2, "cudnn_convolution": 2, "addmm": 0, "baddbmm": 0, "addmv": 0}
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
    **{"_softmax": 5, "_log_softmax": 6},
    **{"upsample_bilinear2d": 7, "_upsample_bilinear2d_aa": 7, "upsample_bicubic2d": 35},
}
_PER_INPUT = set(
    """
    sum mean amax amin max min argmax argmin prod cumsum topk sort _adaptive_avg_pool2d _adaptive_avg_pool3d
    adaptive_max_pool2d adaptive_max_pool3d any all linalg_vector_norm logsumexp var std var_mean
""".split()
)
SHAPE_ONLY = set(
    "new_zeros new_ones new_full new_empty zeros_like ones_like full_like empty_like new_empty_strided".split()
)
_WINDOWED = {"max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d"}
_LISTED = _WITHOUT_PRODUCTS | fourier.ATEN | _PER_OUTPUT.keys() | _PER_INPUT | SHAPE_ONLY | _WINDOWED


# Kinds of arithmetic outside products, of ATen operators; others are elementwise.
_KINDS = {
    **dict.fromkeys(_BIAS_ARGUMENT, "bias"),
    **dict.fromkeys(fourier.ATEN, "fft"),
    **{name: "pooling" if "_pool" in name else "reduction" for name in _PER_INPUT},
    **dict.fromkeys(_WINDOWED, "pooling"),
    **dict.fromkeys(
        """
        sigmoid tanh hardsigmoid silu hardswish gelu mish elu softplus relu leaky_relu hardtanh celu selu prelu
        _prelu_kernel threshold glu rrelu_with_noise log_sigmoid_forward softshrink hardshrink mkldnn_rnn_layer
        """.split(),
        "activation",
    ),
    **dict.fromkeys(["_softmax", "_log_softmax", "_safe_softmax", "_masked_softmax"], "softmax"),
    "_native_multi_head_attention": "softmax",
    **dict.fromkeys(["renorm", "_weight_norm_interface", "_fused_rms_norm"], "normalisation"),
}
_KIND_PARTS = {
    "_norm": "normalisation", "scaled_dot_product": "softmax", "_pool": "pooling",
    "upsample": "resize", "grid_sampler": "resize",
}  # fmt: skip


def kind_of(name: str) -> str:
    """Kind of the FLOPs of an operator outside products: one of activation, normalisation, softmax, pooling, resize,
    elementwise, reduction, bias, fft. An operator has one kind; recurrent layers are activations, and the scale and the
    softmax of attention are softmax."""
    plain = name.removesuffix("_")
    parts = (kind for part, kind in _KIND_PARTS.items() if part in plain)
    return _KINDS.get(plain) or next(parts, "elementwise")


def other_flops(name: str, args: tuple[Any, ...], inputs: list[Tensor], output: Tensor) -> int:
    """FLOPs of an operator outside products, by the conventions of `flops.py`."""
    if name in _BIAS_ARGUMENT:
        return output.numel() if args[_BIAS_ARGUMENT[name]] is not None else 0
    if name.startswith("_scaled_dot_product"):  # attention
        query, key = inputs[:2]
        return 6 * prod(query.shape[:-1]) * key.shape[-2]
    if name == "_native_multi_head_attention":
        query, key, heads = *inputs[:2], args[4]
        scores = heads * prod(query.shape[:-1]) * key.shape[-2]
        return 6 * scores + 2 * query.numel() + 2 * key.numel()  # and a bias per projection
    if name == "mkldnn_rnn_layer":
        return 36 * output.numel()  # 3 sigmoids, 2 tanh, 12 additions of products and biases, 4 for the state
    if name in _PRODUCTS_ALONE or not any(tensor.is_floating_point() or tensor.is_complex() for tensor in inputs):
        return 0
    if name in fourier.ATEN:
        return fourier.of_aten(name, args[1], inputs[0].shape, output.shape)
    if name in _WINDOWED:
        dims = 3 if "3d" in name else 2
        return output.numel() * (prod(args[1]) if len(args[1]) > 1 else args[1][0] ** dims)
    if name in _PER_INPUT and len(inputs) == 1:  # max and min of two tensors are elementwise
        return inputs[0].numel()
    return _PER_OUTPUT.get(name, 1) * output.numel()
