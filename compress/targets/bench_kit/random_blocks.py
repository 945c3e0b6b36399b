"""Draws small networks with the layers and the range of shapes that networks for classification and detection have:
first layers, stages of shrinking size, and an end. They are whole networks, because a layer alone is faster than in a
network, where its weights are in no cache."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import blocks

# Limits of a network: so that one takes milliseconds on a small CPU.
LEAST_MACS, MOST_MACS, MOST_VALUES, MOST_WEIGHTS = 3e6, 1.2e9, 4e6, 20e6


class Draw:
    """Random choices. Uses `random()` alone, which is the same in every version of Python."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed).random

    def choice(self, *options: "Any") -> "Any":
        return options[int(self.random() * len(options))]

    def between(self, low: float, high: float) -> float:
        """Uniform in the logarithm."""
        return low * (high / low) ** self.random()

    def count(self, low: int, high: int) -> int:
        return low + int(self.random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def width(self, low: float, high: float) -> int:
        """A number of channels: multiples of 16 or 8 mostly."""
        step = 16 if self.chance(0.5) else 8 if self.chance(0.85) else 4
        return max(step, round(self.between(low, high) / step) * step)

    def activation(self) -> str:
        return str(self.choice("relu", "relu", "relu", "silu", "silu", "silu", "hswish", "clip", "leaky"))


# Each function returns the layers of a stage for an input of c channels.


def plain(d: Draw, c: int, act: str) -> str:
    kernel = d.choice(1, 3, 3, 5)
    return " ".join(f"conv:{d.width(c / 2, c * 1.5)},{kernel} {act}" for _ in range(d.count(1, 3)))


def residual(d: Draw, c: int, act: str) -> str:
    return " ".join([f"mark conv:{c},{d.choice(1, 3, 3)} {act} conv:{c},3 add {act}"] * d.count(1, 3))


def bottleneck(d: Draw, c: int, act: str) -> str:
    inner, out, groups = d.width(c / 4, c), d.width(c, 1.5 * c), 1
    if d.chance(0.5):
        size = d.choice(4, 8, 16, 16, 24, 32)
        groups = max(1, inner // size)
        inner = groups * size
    gate = f" se:{max(8, inner // 4)}" if d.chance(0.25) else ""
    unit = f"conv:{inner},1 {act} conv:{inner},3,1,{groups} {act}{gate} conv:{out},1"
    return f"{unit} {act}" + f" mark {unit} add {act}" * d.count(0, 2)


def inverted(d: Draw, c: int, act: str) -> str:
    kernel, out, layers = d.choice(3, 3, 5), d.width(c * 0.7, c * 1.2), []
    for index in range(d.count(1, 4)):
        wide = max(8, round((c if index == 0 else out) * d.between(1.5, 6.5) / 8) * 8)
        gate = f" se:{max(8, wide // d.choice(4, 8, 16))}" if d.chance(0.35) else ""
        unit = f"conv:{wide},1 {act} dw:{kernel} {act}{gate} conv:{out},1"
        layers.append(unit if index == 0 else f"mark {unit} add")
    return " ".join(layers)


def separable(d: Draw, c: int, act: str) -> str:
    kernel, layers = d.choice(3, 3, 5, 7), []
    for _ in range(d.count(1, 4)):
        layers.append(f"dw:{kernel} {act}" + (f" conv:{d.width(c / 2, 1.5 * c)},1 {act}" if d.chance(0.7) else ""))
    return " ".join(layers)


def partial(d: Draw, c: int, act: str) -> str:
    """Cross-stage partial: a split, bottlenecks of one part, a concatenation of all."""
    hidden, count = d.width(c / 4, c / 1.5), d.count(1, 3)
    unit = f" mark mark conv:{hidden},3 {act} conv:{hidden},3 {act} add"
    return f"conv:{2 * hidden},1 {act} split{unit * count}{' cat' * (count + 1)} conv:{c},1 {act}"


def dense(d: Draw, c: int, act: str) -> str:
    """Dense connections, with normalisations that cannot be folded into a convolution."""
    growth = d.width(12, 48)
    units = [f"mark bn relu conv:{4 * growth},1 relu conv:{growth},3 cat"] * d.count(2, 5)
    return " ".join(units) + f" bn relu conv:{c},1"


def fire(d: Draw, c: int, act: str) -> str:
    """A narrow convolution, and two wide ones of it."""
    wide = d.width(c / 4, c / 1.5)
    return (
        f"conv:{d.width(c / 8, c / 3)},1 {act} mark conv:{wide},{d.choice(1, 3)} {act} mark conv:{wide},3 {act} cat cat"
    )


def ghost(d: Draw, c: int, act: str) -> str:
    """Half of the channels by a convolution, the others from them by a depthwise one."""
    half = d.width(c / 2, c)
    return " ".join([f"conv:{half},1 {act} mark dw:3 {act} cat"] * d.count(1, 3))


def shuffled(d: Draw, c: int, act: str) -> str:
    half = d.width(c / 3, c / 1.5)
    unit = f"split conv:{half},1 {act} dw:3 conv:{half},1 {act} cat shuffle"
    return f"conv:{2 * half},1 {act} " + " ".join([unit] * d.count(1, 4))


def pyramid(d: Draw, c: int, act: str) -> str:
    """Poolings and concatenations."""
    return f"conv:{d.width(c / 2, c)},1 {act}" + " mark maxpool:5,1" * 3 + f" cat cat cat conv:{c},1 {act}"


def enlarged(d: Draw, c: int, act: str) -> str:
    """Enlargement and concatenation, and back."""
    narrow = d.width(c / 4, c / 2)
    return f"conv:{narrow},1 {act} up mark conv:{narrow},3 {act} cat conv:{narrow},1 {act} conv:{c},3,2 {act}"


def pooled(d: Draw, c: int, act: str) -> str:
    return f"mark {d.choice('avgpool', 'maxpool')}:3,1 conv:{d.width(c / 4, c)},1 {act} cat conv:{c},1 {act}"


def metaformer(d: Draw, c: int, act: str) -> str:
    """Depthwise convolutions and layers of channels last."""
    kernel, wide = d.choice(3, 5, 7, 7), c * d.choice(2, 4, 4)
    if d.chance(0.6):
        return " ".join([f"mark dw:{kernel} nhwc ln fc:{wide} gelu fc:{c} nchw add"] * d.count(1, 3))
    return " ".join([f"mark dw:{kernel} conv:{wide},1 gelu conv:{c},1 add"] * d.count(1, 3))


STAGES: "list[Callable[[Draw, int, str], str]]" = [
    plain, residual, bottleneck, bottleneck, inverted, inverted, inverted, separable, partial, dense, fire, ghost,
    shuffled, pyramid, enlarged, pooled, metaformer,
]  # fmt: skip


def transformer(d: Draw) -> str:
    heads = d.count(2, 8)
    c = heads * d.choice(16, 32, 64, 64)
    wide, act = c * d.choice(2, 4, 4), d.choice("gelu", "gelu", "silu")
    unit = f"mark ln attention:{heads} fc:{c} add mark ln fc:{wide} {act} fc:{c} add"
    return f"conv:{c},1 tokens " + " ".join([unit] * d.count(1, 5)) + " ln"


def network(d: Draw) -> str:
    side, act = int(d.between(96, 450)) // 32 * 32, d.activation()
    c = d.width(12, 48)
    text = f"3x{side}x{side}" + str(d.choice(" normalize", "", ""))
    if d.chance(0.12):  # patches
        size = d.choice(8, 16)
        text, side, c = f"{text} conv:{d.width(48, 300)},{size},{size}", side // size, 192
        return f"{text} {transformer(d)} mean classify:{d.count(10, 1000)}"
    size = d.choice(1, 2)
    text += f" conv:{c},{size * 2},{size * 2}" if d.chance(0.15) else f" conv:{c},{d.choice(3, 3, 3, 5, 7)},2 {act}"
    text += str(d.choice("", "", " maxpool:3,2"))
    kinds = [d.choice(*STAGES) for _ in range(2)]
    for _ in range(d.count(3, 6)):
        block = blocks.Block(text)
        c, side = block.shape[1], block.shape[2]
        if side >= 10 and d.chance(0.85):
            wide = min(d.width(1.3 * c, 3 * c), 1024)
            way = d.choice(f"conv:{wide},3,2 {act}", f"dw:{d.choice(3, 5)},2 conv:{wide},1 {act}", "maxpool:3,2")
            text, c = f"{text} {way}", c if way == "maxpool:3,2" else wide
        text = f"{text} {d.choice(*kinds, *kinds, d.choice(*STAGES))(d, c, act)}"
    c, side, _ = blocks.Block(text).shape[1:]
    if side <= 20 and d.chance(0.15):
        return f"{text} {transformer(d)} mean"
    if d.chance(0.2):
        return f"{text} {d.choice('conv:64,1 distances', f'conv:80,1 sigmoid best:{d.count(50, 300)}')}"
    return f"{text} conv:{d.width(c, 3 * c)},1 {act} classify:{d.count(10, 1000)}"


def tiny(d: Draw) -> str:
    """So small that the time of starting an inference and operators is most of it."""
    c, side = d.choice(8, 16, 32), d.count(8, 32)
    kinds = [f"conv:{c},1", f"dw:3 {d.activation()}", "maxpool:3,1", f"se:{c}"]
    return f"3x{side}x{side} conv:{c},1 " + " ".join(d.choice(*kinds) for _ in range(d.count(1, 24)))


def scene(d: Draw) -> str:
    """Stages of one size: covers shapes that few small networks have."""
    side, act = round(d.between(6, 130)), d.activation()
    c = d.width(16, 90) if side > 60 else d.width(24, 260) if side > 24 else d.width(32, 1100)
    text = f"3x{side}x{side} conv:{c},1"
    if side <= 20 and d.chance(0.1):
        return f"{text} {transformer(d)} mean"
    kind = d.choice(*STAGES)
    for _ in range(d.count(1, 3)):
        text = f"{text} {kind(d, blocks.Block(text).shape[1], act)}"
        if d.chance(0.2):
            text = f"{text} conv:{d.width(c / 2, 2 * c)},{d.choice(1, 3, 3)},2 {act}"
    return f"{text} mean"


def draw(seed: int = 0) -> "Iterator[str]":
    """Networks without end."""
    d = Draw(seed)
    while True:
        yield tiny(d)
        for kind in (network, scene) * 10:
            while (text := attempt(kind, d)) is None:
                pass
            yield text


def attempt(kind: "Callable[[Draw], str]", d: Draw) -> "str | None":
    """A network; None if it is too large or too small."""
    try:
        text = kind(d)
        block = blocks.Block(text)
    except ValueError:
        return None
    fits = block.values <= MOST_VALUES and block.weights <= MOST_WEIGHTS
    return text if fits and LEAST_MACS <= block.macs <= MOST_MACS else None
