"""What a stage is: one step of the pipeline, from product to product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compress.config import Config
from compress.data import DataSet
from compress.product import Product
from compress.stages.context import Context


def _nothing(*_: object) -> None:
    """The check of a stage that has none."""


def _no_images(_: Config) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    Attributes:
        name: as recipes write it.
        run: makes the next product; a result of the same inputs is read from the cache.
        check_config: raises UserError for a config that cannot work, before the model is loaded.
        check: raises UserError for a model or data that cannot work, before any stage runs.
        images: names of the splits that it needs images of: "train", "calibration", "validation".
        makes_baseline: what it makes is what all later rows are compared with.
        makes_files: its product holds one graph per target and precision.
    """

    name: str
    run: Callable[[Product, Context], Product]
    check_config: Callable[[Config], None] = _nothing
    check: Callable[[Product, Config, DataSet], None] = _nothing
    images: Callable[[Config], Sequence[str]] = _no_images
    makes_baseline: bool = False
    makes_files: bool = False
