"""The type of a stage: one step of the pipeline, from product to product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compress.config import Config
from compress.data import DataSet
from compress.product import Product
from compress.stages.context import Context


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline. Its checks raise UserError for what cannot work."""

    name: str  # as in `stages=[…]`
    run: Callable[[Product, Context], Product]  # returns the next product, from the cache if the inputs are the same
    check_config: Callable[[Config], None] = lambda _: None  # before the model is loaded
    check: Callable[[Product, Config, DataSet], None] = lambda *_: None  # of model and data, before any stage runs
    images: Callable[[Config], Sequence[str]] = lambda _: ()  # splits needed: "train", "calibration", "validation"
    makes_baseline: bool = False  # later rows are compared with its product
    makes_files: bool = False  # its product has graphs, one per target and precision
