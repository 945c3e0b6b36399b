"""FLOPs of Fourier transforms.

A transform of N points counts 5 N log2 N FLOPs if it is complex, half of that if its input or result is real. This is
the convention of FFTW's benchmark (Frigo and Johnson, https://www.fftw.org/speed/method.html): the leading term of the
radix-2 algorithm (Cooley and Tukey, Math. Comp. 19, 1965), whichever algorithm a library uses. N of a transform in
several dimensions is the product of its sizes. These FLOPs are outside products (`other_flops`): they are no MACs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2, prod

import onnx
from onnx import NodeProto, TensorProto, numpy_helper

ATEN = {"_fft_c2c", "_fft_r2c", "_fft_c2r"}
ONNX = {"DFT", "STFT"}


def flops(points: int, transforms: int, real: bool) -> int:
    """FLOPs of `transforms` transforms of `points` points each; `real`: input or result is real."""
    return round((2.5 if real else 5) * points * log2(points) * transforms) if points else 0


def of_aten(name: str, dims: Sequence[int], given: Sequence[int], result: Sequence[int]) -> int:
    """FLOPs of an operator in `ATEN` over the dimensions `dims` of its input, of shape `given`; `result`: the shape of
    its output."""
    shape = result if name == "_fft_c2r" else given  # the shape that is not halved
    points = prod(shape[dim] for dim in dims)
    return flops(points, prod(shape) // points if points else 0, real=name != "_fft_c2c")


def of_onnx(node: NodeProto, shapes: Mapping[str, tuple[int, ...]], constants: Mapping[str, TensorProto]) -> int:
    """FLOPs of a node DFT or STFT; the window of STFT counts 1 per point. Lengths and axes are constants of the graph;
    if a length is none, it is derived from the shape of the result."""
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    inputs = [*node.input, "", "", ""]

    def constant(position: int) -> int | None:
        tensor = constants.get(inputs[position])
        return None if tensor is None else int(numpy_helper.to_array(tensor).reshape(-1)[0])

    given, result = shapes[inputs[0]], shapes[node.output[0]]
    if node.op_type == "STFT":  # (b, length, 1 or 2) to (b, frames, bins, 2)
        frames, window = prod(result[:2]), inputs[2]
        halved = attributes.get("onesided", 1)
        points = shapes[window][0] if window else constant(3) or (2 * (result[2] - 1) if halved else result[2])
        return flops(points, frames, real=given[-1] == 1) + (frames * points if window else 0)
    axis = constant(2) if inputs[2] else attributes.get("axis", -2 if len(given) > 2 else 1)
    axis = (axis or 0) % len(given)
    halved, inverse = attributes.get("onesided", 0), attributes.get("inverse", 0)
    points = constant(1) or (given[axis] if halved and not inverse else result[axis])
    transforms = prod(size for index, size in enumerate(given[:-1]) if index != axis)
    return flops(points, transforms, real=given[-1] == 1 or result[-1] == 1)
