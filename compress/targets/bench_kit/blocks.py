"""Small networks, to measure what the layers of convolutional and transformer networks cost on a device. A block is
one line of text: the shape of its input, then its layers, such as `32x56x56 mark conv:96,1 relu dw:3 conv:32,1 add`.
Needs only numpy."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

# Blocks are read from files of a device: limits of the size of one.
MOST_LAYERS, MOST_VALUES, MOST_WEIGHTS, MOST_MACS = 400, 2**26, 2**26, 2**36
SHAPE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})x([1-9]\d{0,4})")
LAYER = re.compile(r"([a-z]+\d?)(?::([1-9]\d{0,4}(?:,[1-9]\d{0,4}){0,3}))?")


class Block:
    """The graph of a block. `nodes` are ONNX operators (type, inputs, outputs, attributes), `constants` arrays by
    name. A layer reads the value of the one before it; `mark` stores a value on a stack for `add` and `cat`."""

    INPUT, OUTPUT = "images", "output0"

    def __init__(self, text: str) -> None:
        """Raises ValueError if the text is not a block, or the block is too large."""
        words = text.split(" ")
        match = SHAPE.fullmatch(words[0])
        if not match or not 2 <= len(words) <= MOST_LAYERS + 1:
            raise ValueError(f"not a block: {text[:60]!r}")
        self.text = text
        self.nodes: list = []
        self.constants: dict = {}
        self.macs = self.values = self.weights = 0
        self.stack: list = []
        self.value, self.shape = self.INPUT, (1, *map(int, match.groups()))
        self.input_shape = self.shape
        for word in words[1:]:
            layer = LAYER.fullmatch(word)
            if layer is None or layer.group(1) not in LAYERS:
                raise ValueError(f"not a layer: {word[:60]!r}")
            try:
                LAYERS[layer.group(1)](self, *[int(each) for each in (layer.group(2) or "").split(",") if each])
            except (TypeError, IndexError, ZeroDivisionError) as error:
                raise ValueError(f"{word} does not fit into {text[:60]!r}") from error
        if not self.nodes:
            raise ValueError(f"no layers: {text[:60]!r}")
        self.nodes[-1][2][:] = [self.OUTPUT]
        self.output_shape = self.shape

    def append(self, operator: str, inputs: Sequence, shape: Sequence, **attributes: object) -> str:
        """Appends an operator whose output has a shape; arrays in `inputs` are constants. Returns the output's name."""
        shape, names = tuple(int(size) for size in shape), []
        if min(shape) < 1:
            raise ValueError(f"a tensor is empty in {self.text[:60]!r}")
        for each in inputs:
            if isinstance(each, np.ndarray):
                name = f"c{len(self.constants)}"
                self.constants[name] = each
                each = name
            names.append(each)
        self.value, self.shape = f"v{len(self.nodes)}", shape
        self.nodes.append((operator, names, [self.value], attributes))
        self.values = max(self.values, math.prod(shape))
        self.limit()
        return self.value

    def weight(self, *size: int) -> np.ndarray:
        """Constants with a deviation of 1 / sqrt(values per output), (out, in, height, width), (in, out) or (out,)."""
        self.weights += math.prod(size)
        self.limit()
        fan_in = math.prod(size[1:]) if len(size) == 4 else size[0] if len(size) == 2 else 4
        return np.resize(NUMBERS / np.float32(math.sqrt(fan_in)), size)

    def limit(self) -> None:
        if self.values > MOST_VALUES or self.weights > MOST_WEIGHTS or self.macs > MOST_MACS:
            raise ValueError(f"too large: {self.text[:60]!r}")

    def apply(self, operator: str, *others: object, **attributes: object) -> None:
        """An operator that keeps the shape."""
        self.append(operator, [self.value, *others], self.shape, **attributes)

    def move(self, order: Sequence) -> None:
        self.append("Transpose", [self.value], [self.shape[axis] for axis in order], perm=list(order))

    def reshape(self, *shape: int) -> None:
        self.append("Reshape", [self.value, np.array(shape, np.int64)], shape)


NUMBERS = np.random.RandomState(0).standard_normal(4099).astype(np.float32)


def conv(b: Block, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
    _, channels, height, width = b.shape
    if channels % groups or out % groups:
        raise ValueError(f"{groups} groups do not divide {channels} and {out} channels")
    pad = kernel // 2 if kernel % 2 else 0
    sides = [(side + 2 * pad - kernel) // stride + 1 for side in (height, width)]
    b.macs += out * math.prod(sides) * channels // groups * kernel**2
    inputs = [b.value, b.weight(out, channels // groups, kernel, kernel), b.weight(out)]
    b.append(
        "Conv", inputs, (1, out, *sides), kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, group=groups
    )


def depthwise(b: Block, kernel: int, stride: int = 1) -> None:
    conv(b, b.shape[1], kernel, stride, b.shape[1])


def pool(b: Block, kernel: int, stride: int, kind: str = "MaxPool") -> None:
    _, channels, height, width = b.shape
    pad = kernel // 2 if kernel % 2 else 0
    sides = [(side + 2 * pad - kernel) // stride + 1 for side in (height, width)]
    sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
    b.append(kind, [b.value], (1, channels, *sides), **sizes)


def silu(b: Block) -> None:
    value = b.value
    b.apply("Sigmoid")
    b.append("Mul", [value, b.value], b.shape)


def hard_swish(b: Block) -> None:
    value = b.value
    b.apply("HardSigmoid", alpha=1 / 6, beta=0.5)
    b.append("Mul", [value, b.value], b.shape)


def gelu(b: Block) -> None:
    value = b.value
    b.apply("Div", np.array(math.sqrt(2), np.float32))
    b.apply("Erf")
    b.apply("Add", np.array(1, np.float32))
    b.append("Mul", [value, b.value], b.shape)
    b.apply("Mul", np.array(0.5, np.float32))


def batch_norm(b: Block) -> None:
    channels = b.shape[1]
    ones = np.ones(channels, np.float32)
    b.apply("BatchNormalization", ones, b.weight(channels), b.weight(channels), ones.copy())


def mark(b: Block) -> None:
    b.stack.append((b.value, b.shape))


def add(b: Block) -> None:
    value, shape = b.stack.pop()
    if shape != b.shape:
        raise ValueError(f"add of {shape} and {b.shape}")
    b.append("Add", [value, b.value], shape)


def cat(b: Block) -> None:
    value, shape = b.stack.pop()
    if shape[2:] != b.shape[2:]:
        raise ValueError(f"cat of {shape} and {b.shape}")
    b.append("Concat", [value, b.value], (1, shape[1] + b.shape[1], *shape[2:]), axis=1)


def split(b: Block) -> None:
    """Both halves of the channels: the first one is marked."""
    _, channels, *rest = b.shape
    first = f"s{len(b.nodes)}"
    b.append("Split", [b.value, np.array([channels - channels // 2, channels // 2], np.int64)], b.shape, axis=1)
    b.nodes[-1][2].insert(0, first)
    b.shape = (1, channels // 2, *rest)
    b.stack.append((first, (1, channels - channels // 2, *rest)))


def resize(b: Block) -> None:
    _, channels, height, width = b.shape
    scales = np.array([1, 1, 2, 2], np.float32)
    modes = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    b.append("Resize", [b.value, "", scales], (1, channels, 2 * height, 2 * width), **modes)


def squeeze_excite(b: Block, hidden: int) -> None:
    value, shape = b.value, b.shape
    b.append("ReduceMean", [value], (1, shape[1], 1, 1), axes=[2, 3], keepdims=1)
    conv(b, hidden, 1)
    b.apply("Relu")
    conv(b, shape[1], 1)
    b.apply("Sigmoid")
    b.append("Mul", [value, b.value], shape)


def shuffle(b: Block) -> None:
    _, channels, height, width = b.shape
    b.reshape(1, 2, channels // 2, height, width)
    b.move((0, 2, 1, 3, 4))
    b.reshape(1, channels // 2 * 2, height, width)


def mean(b: Block) -> None:
    """Over all positions."""
    if len(b.shape) == 4:
        b.append("GlobalAveragePool", [b.value], (1, b.shape[1], 1, 1))
    else:
        b.append("ReduceMean", [b.value], b.shape[::2], axes=[1], keepdims=0)


def classify(b: Block, classes: int) -> None:
    channels = b.shape[1]
    if len(b.shape) == 4:
        b.append("GlobalAveragePool", [b.value], (1, channels, 1, 1))
        b.append("Flatten", [b.value], (1, channels), axis=1)
    b.macs += channels * classes
    b.append("Gemm", [b.value, b.weight(channels, classes), b.weight(classes)], (1, classes))


def linear(b: Block, out: int) -> None:
    """Of the last axis."""
    *rows, channels = b.shape
    b.macs += math.prod(rows) * channels * out
    b.append("MatMul", [b.value, b.weight(channels, out)], (*rows, out))
    b.apply("Add", b.weight(out))


def layer_norm(b: Block) -> None:
    channels = b.shape[-1]
    b.apply("LayerNormalization", np.ones(channels, np.float32), b.weight(channels), axis=-1, epsilon=1e-6)


def normalize(b: Block) -> None:
    """Subtracts means of channels and divides by deviations, as before the first layer."""
    for operator in ("Sub", "Div"):
        b.apply(operator, np.full((1, b.shape[1], 1, 1), 0.5, np.float32))


def distances(b: Block) -> None:
    """Means of four distributions of 16 values each, per position, as detectors predict boxes."""
    _, _, height, width = b.shape
    b.reshape(1, 4, 16, height * width)
    b.move((0, 2, 1, 3))
    b.apply("Softmax", axis=1)
    conv(b, 1, 1)


def best(b: Block, most: int) -> None:
    """The values of the positions with the largest ones, as the end of a detector without suppression."""
    tokens(b)
    value, (_, count, channels) = b.value, b.shape
    most = min(most, count)
    b.append("ReduceMax", [b.value], (1, count), axes=[-1], keepdims=0)
    b.append("TopK", [b.value, np.array([most], np.int64)], (1, most), axis=-1)
    b.nodes[-1][2].append(f"i{len(b.nodes)}")
    b.append("Unsqueeze", [b.nodes[-1][2][1], np.array([-1], np.int64)], (1, most, 1))
    b.append("Expand", [b.value, np.array([1, most, channels], np.int64)], (1, most, channels))
    b.append("GatherElements", [value, b.value], (1, most, channels), axis=1)


def tokens(b: Block) -> None:
    """(1, channels, height, width) to (1, height x width, channels)."""
    _, channels, height, width = b.shape
    b.reshape(1, channels, height * width)
    b.move((0, 2, 1))


def attention(b: Block, heads: int) -> None:
    """Softmax attention of (1, tokens, channels) without its projections: queries, keys and values are `linear`."""
    _, count, channels = b.shape
    if channels % heads:
        raise ValueError(f"{heads} heads do not divide {channels} channels")
    size = channels // heads
    linear(b, 3 * channels)
    b.reshape(1, count, 3, heads, size)
    b.move((2, 0, 3, 1, 4))
    all_three, parts = b.value, []
    for index in range(3):
        parts.append(b.append("Gather", [all_three, np.array(index, np.int64)], (1, heads, count, size), axis=0))
    b.append("Transpose", [parts[1]], (1, heads, size, count), perm=[0, 1, 3, 2])
    scale = np.array(size**-0.25, np.float32)
    key = b.append("Mul", [b.value, scale], b.shape)
    query = b.append("Mul", [parts[0], scale], (1, heads, count, size))
    b.macs += 2 * heads * count * count * size
    b.append("MatMul", [query, key], (1, heads, count, count))
    b.apply("Softmax", axis=-1)
    b.append("MatMul", [b.value, parts[2]], (1, heads, count, size))
    b.move((0, 2, 1, 3))
    b.reshape(1, count, channels)


LAYERS: "dict[str, Any]" = {
    "conv": conv,
    "dw": depthwise,
    "maxpool": pool,
    "avgpool": lambda b, kernel, stride: pool(b, kernel, stride, "AveragePool"),
    "relu": lambda b: b.apply("Relu"),
    "clip": lambda b: b.apply("Clip", np.array(0, np.float32), np.array(6, np.float32)),
    "hswish": hard_swish,
    "leaky": lambda b: b.apply("LeakyRelu", alpha=0.1),
    "sigmoid": lambda b: b.apply("Sigmoid"),
    "silu": silu,
    "gelu": gelu,
    "bn": batch_norm,
    "normalize": normalize,
    "distances": distances,
    "best": best,
    "mark": mark,
    "add": add,
    "cat": cat,
    "split": split,
    "up": resize,
    "se": squeeze_excite,
    "shuffle": shuffle,
    "mean": mean,
    "classify": classify,
    "nhwc": lambda b: b.move((0, 2, 3, 1)),
    "nchw": lambda b: b.move((0, 3, 1, 2)),
    "tokens": tokens,
    "fc": linear,
    "ln": layer_norm,
    "attention": attention,
}
