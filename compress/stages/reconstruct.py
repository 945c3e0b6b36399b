"""Reconstructs the outputs of the unpruned network without training: solves the weights of each layer of a pruned model
by least squares on unlabelled training images (He et al. 2017, arXiv:1707.06168, section 3). torch -> torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compress.capabilities import Prunable, TorchModel, require
from compress.config import Config
from compress.data import DataSet, Split, images
from compress.errors import UserError
from compress.product import Product, Reference
from compress.pruning import solver
from compress.reconstruction import layers
from compress.reconstruction.network import reconstruct
from compress.stages.context import Context
from compress.stages.stage import Stage

NAME = "reconstruct"
VERSION = 1
RECORD = "reconstruction.json"  # its keys are described in docs/user-guide/run-folder.md

log = logging.getLogger(__name__)


def check(product: Product, config: Config, data: DataSet) -> None:
    """Raises UserError if the model cannot be pruned, the unpruned network or the kept channels are unknown, or the
    images are too few for a layer of the model as it is before the first stage."""
    model = require(product.model, Prunable, "stages", NAME)
    if "prune" not in config.stages:
        _reference(product)
    count = min(config.reconstruct.images, len(data.train))
    layers.check_images(layers.trace(model.prunable()[0], model.example_input())[0], count)


def run(product: Product, context: Context) -> Product:
    """Returns the product with the reconstructed model and the same reference."""
    config = context.config.reconstruct
    model = require(product.model, Prunable, "stages", NAME)
    unpruned, kept = _reference(product)
    split = drawn(context.data.train, config.images, context.config.seed)

    def make(folder: Path) -> TorchModel:
        net, _ = model.prunable()
        solved = reconstruct(
            net, unpruned.prunable()[0], kept, lambda start, stop: _load(split, start, stop), len(split),
            growth=config.max_growth, seed=context.config.seed, device=context.device,
        )  # fmt: skip
        (folder / RECORD).write_text(json.dumps({layer.pop("layer"): layer for layer in map(asdict, solved)}, indent=1))
        log.info("reconstruct: %d layers solved on %d images", len(solved), len(split))
        return model.with_net(net)

    parts = {"version": VERSION, NAME: asdict(config), "reference": unpruned.identity(), "kept": dict(kept)}
    solved, cached = context.cached_model(NAME, product.model, parts, make, record=RECORD)
    return replace(product, model=solved, cached=cached)


def _reference(product: Product) -> tuple[Prunable, Mapping[str, Sequence[int]]]:
    """The unpruned model and, for each narrowed layer, which of its channels the pruned one kept. Raises UserError."""
    reference = product.reference
    if reference is None:
        raise UserError("stages", NAME, "nothing was pruned: add prune before it, or set a pruned model=checkpoint")
    if reference.model is None:
        raise UserError(
            "stages", NAME, f"needs the unpruned model, and {reference.path} could not be loaded: restore it"
        )
    if reference.kept is None or (problem := _mismatch(product, reference, reference.kept)):
        why = "the checkpoint does not record which channels were kept" if reference.kept is None else problem
        raise UserError("stages", NAME, f"{why}: prune the unpruned model again")
    return require(reference.model, Prunable, "stages", NAME), reference.kept


def _mismatch(product: Product, reference: Reference, kept: Mapping[str, Sequence[int]]) -> str:
    """Why `kept` does not describe how the model was pruned from its reference; empty if it does."""
    after, before = (
        solver.widths_of(require(model, Prunable, "stages", NAME).prunable()[0])
        for model in (product.model, reference.model)
        if model is not None
    )
    if after.keys() != before.keys():
        return "the unpruned model has other layers"
    for layer, width in after.items():
        channels = kept.get(layer, range(before[layer]))
        if len(channels) != width or max(channels) >= before[layer]:
            return f"the record of kept channels does not fit the layer {layer}"
    return ""


def drawn(split: Split, count: int, seed: int) -> Split:
    """At most `count` images, drawn without their labels."""
    if count > len(split):
        log.warning("reconstruct.images=%d: the data has %d training images, all are used", count, len(split))
    order = np.random.default_rng(seed).permutation(len(split))[:count].tolist()
    return replace(split, samples=[split.samples[index] for index in order])


def _load(split: Split, start: int, stop: int) -> Tensor:
    part = replace(split, samples=split.samples[start:stop])
    return torch.from_numpy(next(images(part, batch=stop - start)))


STAGE = Stage(NAME, run, check=check, images=lambda _: ("train",))
