"""The type of a stage: one step of the pipeline, from product to product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compress.config import Config
from compress.data import DataSet
from compress.product import Product
from compress.stages.context import Context


def _nothing(*_: object) -> None:
    """Default check: accepts everything."""


def _no_images(_: Config) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    Attributes:
        name: as in `stages=[…]`.
        run: returns the next product, from the cache if the inputs are the same.
        check_config: raises UserError for a configuration that cannot work, before the model is loaded.
        check: raises UserError for a model or data that cannot work, before any stage runs.
        images: splits in which it needs images: "train", "calibration", "validation".
        makes_baseline: later rows are compared with its product.
        makes_files: its product has graphs, one per target and precision.
    """

    name: str
    run: Callable[[Product, Context], Product]
    check_config: Callable[[Config], None] = _nothing
    check: Callable[[Product, Config, DataSet], None] = _nothing
    images: Callable[[Config], Sequence[str]] = _no_images
    makes_baseline: bool = False
    makes_files: bool = False
