"""Packages the graphs of each target into `artifacts/<target>/` with manifest and bench kit, and checks the files
against the model in a new process. graphs -> artifacts."""

from __future__ import annotations

import functools
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from compress import cached_graphs, targets
from compress.budget import Check
from compress.capabilities import Evaluable, Model, require
from compress.data import supervised
from compress.devices import graph_operators, operators
from compress.errors import TargetFailed, UserError
from compress.measurement import contracts
from compress.product import Graph, Product
from compress.stages.context import Context
from compress.stages.stage import Stage
from compress.targets import artifact, onnx_graph
from compress.targets.bench_kit import labelled_images

NAME = "export"
VERSION = 1  # of the computation, for the cache
LABELLED = 32  # most validation images in an artifact, for its bench kit to compute the accuracy

log = logging.getLogger(__name__)


def run(product: Product, context: Context) -> Product:
    """Returns the product with packaged graphs: those of the stage quantize, otherwise the FP32 graphs of the model."""
    model = require(product.model, Evaluable, "stages", NAME)
    folder = context.folder / "artifacts"
    recorded: dict[str, Any] = {"data": context.data.fingerprint, "recipe": context.config.recipe_name}
    confidence = None if context.config.data.labels else context.config.data.confidence
    if confidence is not None:  # what the metrics in the manifest compare with
        recorded["agreement"] = {"with": "predictions of the unpruned model", "confidence": confidence}
    split = context.data.validation.subset(LABELLED, context.config.seed)

    @functools.cache
    def labelled() -> tuple[list[np.ndarray], list[Any]]:
        numbers, task = range(len(split)), supervised(split)
        return [split.image(index) for index in numbers], [task.kit_label(split.target(index)) for index in numbers]

    def package(target: str) -> tuple[tuple[Graph, ...], list[Check], bool]:
        own = [graph for graph in product.graphs if graph.target == target]
        graphs = own or [context.converter.fp32(model, target)]

        def pack(entry: Path) -> cached_graphs.Made:
            if artifact.output_kind(graphs[0], model) in labelled_images.KINDS:
                artifact.add_labelled_images(entry, *labelled(), confidence)
            packed = targets.get(target).package(graphs, entry, model, recorded)
            return packed, [asdict(check) for check in contracts.verify(entry, model, context.data.validation)]

        files = [{**graph.as_dict(graph.path.parent), "contents": graph.contents()} for graph in graphs]
        images = {
            "validation": len(context.data.validation),
            "seed": context.config.seed,
            **asdict(context.config.data),
        }
        parts = {**cached_graphs.model_key(model), **recorded, "graphs": files, "images": images, "version": VERSION}
        packed, checks, cached = cached_graphs.fetch(context.cache, NAME, parts, pack, folder / target)
        return packed, [Check(**check) for check in checks], cached

    made, failures = context.for_each_target(product, package)
    _write_operators(model, folder / operators.FILE, context)
    graphs = tuple(graph for packed, _, _ in made for graph in packed)
    checks = (*product.acceptance_checks, *(check for _, target_checks, _ in made for check in target_checks))
    cached = bool(made) and all(cached for _, _, cached in made)
    return replace(product, graphs=graphs, failures=failures, acceptance_checks=checks, cached=cached)


def _write_operators(model: Model, path: Path, context: Context) -> None:
    """Counts the operators of the model, so that a latency from a device can be added to its measurements without the
    model; writes nothing if they cannot be counted."""
    try:
        graph = onnx_graph.read(context.converter.fp32(model, "onnxruntime").path)
        operators.write([(context.config.recipe_name, graph_operators.read(graph))], path)
    except (TargetFailed, UserError, OSError) as error:
        log.debug("the operators of the model are not counted: %s", error)


STAGE = Stage(NAME, run, images=lambda _: ("validation",), makes_files=True)
