"""How long and how fast to train: learning rate, EMA decay and regularisation as functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; checked on construction (ValueError naming the field)."""

    images: int  # training length in image presentations, rounded up to whole batches
    batch: int = 16  # images a step; `batches` must yield batches of this size
    learning_rate: float = 0.01  # peak, reached at the end of the warm-up
    optimizer: str = "sgd"  # "sgd" (Nesterov) or "adamw"
    momentum: float = 0.9  # SGD momentum, or AdamW's first beta
    weight_decay: float = 5e-4  # on weights of two and more dimensions, never on norms and biases
    warmup: float = 0.05  # share of the steps over which the rate rises linearly
    ema: float = 0.999  # decay a step of the weight average; 0 switches it off
    clip: float = 10.0  # largest gradient norm; 0 switches clipping off
    bfloat16: bool = True  # call the loss under bfloat16 autocast
    channels_last: bool = True  # NHWC memory layout of weights and images
    final: float = 0.01  # last learning rate as a share of the peak (cosine)

    def __post_init__(self) -> None:
        rules = {
            "images": (self.images >= 1, "at least 1"),
            "batch": (self.batch >= 1, "at least 1"),
            "learning_rate": (0 < self.learning_rate < math.inf, "positive and finite"),
            "optimizer": (self.optimizer in ("sgd", "adamw"), "'sgd' or 'adamw'"),
            "momentum": (0 <= self.momentum < 1, "in [0, 1)"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "at least 0 and finite"),
            "warmup": (0 <= self.warmup < 1, "in [0, 1)"),
            "ema": (0 <= self.ema < 1, "in [0, 1)"),
            "clip": (0 <= self.clip < math.inf, "at least 0 and finite"),
            "final": (0 <= self.final <= 1, "in [0, 1]"),
        }
        for field, (good, rule) in rules.items():
            if not good:
                raise ValueError(f"Schedule.{field} must be {rule}, not {getattr(self, field)!r}")

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return math.ceil(self.images / self.batch)

    def rate(self, step: int) -> float:
        """Learning rate of `step` (from 0): linear warm-up, then a cosine down to `final`."""
        warm = round(self.warmup * self.steps)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        share = (step - warm) / max(1, self.steps - 1 - warm)
        return self.learning_rate * (self.final + (1 - self.final) * (1 + math.cos(math.pi * share)) / 2)

    def decay(self, updates: int) -> float:
        """EMA decay after `updates` steps, from near 0 (forgets the start) up to `ema`."""
        # The average must not reach further back than a fiftieth of the training: at 0.999 a run of 600 steps would
        # still carry half of the weights that it started from, and on drone_nano one of 100 steps has 0.575 mAP where
        # the average reaches back a tenth, 0.583 where a fiftieth, and 0.584 without (0.624 and 0.625 after 250).
        limit = min(self.ema, max(0.0, 1 - 50 / self.steps))
        tau = min(2000.0, max(1.0, self.steps / 20))
        return limit * (1 - math.exp(-updates / tau))
