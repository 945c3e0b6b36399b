"""Draws what the baseline and each final file predict for a few validation images, for the report: some drawn by the
seed, and those on which a file disagrees most with the baseline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from compress import atomic, targets
from compress.cache import Cache
from compress.cached_graphs import environment, model_key
from compress.capabilities import Evaluable, Model
from compress.config import Config
from compress.data import DataSet, Split, images
from compress.measurement import accuracy
from compress.measurement.reuse import conditions, graph_key
from compress.product import Product
from compress.tasks import Predictions, SupervisedTask
from compress.training.placement import CPU

VERSION = 1  # of what is drawn
FOLDER, INDEX = "drawings", "index.json"
BASELINE = "baseline, torch"  # name of its column
IMAGES = 4  # drawn by the seed
WORST = 4  # images with disagreements, at most
COMPARED = 100  # images, drawn by the seed, among which they are searched
CONFIDENCE = 0.25  # lowest score of the instances that are drawn and compared
SIDE = 320  # pixels of a drawing
QUALITIES = (85, 70, 50, 30)  # of the JPEG files: the first with which all have at most MOST_BYTES
MOST_BYTES = 3_000_000


Answer = Callable[[np.ndarray], Predictions]  # an image float32 (1, c, s, s) in [0, 1] to predictions


def write(folder: Path, data: DataSet, baseline: Model | None, product: Product, config: Config, cache: Cache) -> None:
    """Writes `folder`/drawings as `draw` does, or copies those of an earlier run with the same models and data."""
    shown = [graph_key(graph) for graph in product.graphs] or [model_key(product.model)]
    parts = {
        "version": VERSION, "baseline": None if baseline is None else model_key(baseline), "products": shown,
        **conditions(config, data, CPU), **environment(),
    }  # fmt: skip
    entry, _ = cache.fetch("drawings", parts, lambda entry: draw(entry, data, baseline, product, config))
    if (entry / FOLDER).exists():
        shutil.copytree(entry / FOLDER, folder / FOLDER, dirs_exist_ok=True)


def draw(folder: Path, data: DataSet, baseline: Model | None, product: Product, config: Config) -> None:
    """Writes `folder`/drawings: JPEG files and `index.json` (see docs/user-guide/run-folder.md). The columns are the
    targets of the data, the baseline in torch, and the last file of each target or, without files, the last model.
    Nothing is written if there is nothing to draw or the task cannot draw. Raises TargetFailed if a file cannot be
    loaded."""
    task = data.task
    if not len(data.validation) or not isinstance(task, SupervisedTask) or type(task).draw is SupervisedTask.draw:
        return
    answers = _answers(baseline, product, config.threads)
    compared = data.validation.subset(COMPARED, config.seed)
    agreements = _agreements(answers, compared, task)
    worst = _worst(agreements)
    disagreeing = [compared.samples[index] for index in worst]
    others = [each for each in data.validation.samples if not any(each is other for other in disagreeing)]
    drawn = replace(data.validation, samples=others).subset(IMAGES, config.seed).samples
    split = replace(compared, samples=[*drawn, *disagreeing])
    labels = "labels" if config.data.labels else "unpruned model"
    columns = {labels: [split.target(index) for index in range(len(split))]}
    columns |= {name: _targets(answer, split, task) for name, answer in answers.items()}
    canvases: dict[str, np.ndarray] = {}
    rows = [[f"{index}-{column}.jpg" for column in range(len(columns))] for index in range(len(split))]
    for index, row in enumerate(rows):
        for file, shown in zip(row, columns.values(), strict=True):
            canvases[file] = _canvas(split.image(index))
            task.draw(canvases[file], shown[index], SIDE / split.imgsz, data.classes)
    (folder / FOLDER).mkdir(exist_ok=True)
    for file, content in _encoded(canvases).items():
        atomic.write(folder / FOLDER / file, content)
    record: dict[str, Any] = {"columns": list(columns), "rows": rows[: len(drawn)]}
    if agreements:
        by_image = [[agreements[name][index] if name in agreements else None for name in columns] for index in worst]
        disagreements = zip(rows[len(drawn) :], by_image, strict=True)
        record["worst"] = [{"files": files, "agreement": values} for files, values in disagreements]
        means = {name: float(np.mean(values)) for name, values in agreements.items()}
        record |= {"compared": len(compared), "agreement": [means.get(name) for name in columns]}
        record["definition"] = task.agreement
    atomic.write(folder / FOLDER / INDEX, json.dumps(record, indent=1))


def _agreements(answers: Mapping[str, Answer], split: Split, task: SupervisedTask) -> dict[str, list[float]]:
    """Agreement of each column with the baseline on each image; empty without columns to compare."""
    others = {name: answer for name, answer in answers.items() if name != BASELINE}
    if not task.agreement or BASELINE not in answers or not others:
        return {}
    result: dict[str, list[float]] = {name: [] for name in others}
    for image in images(split):  # one at a time: masks of all images would take too much memory
        expected = answers[BASELINE](image)
        for name, answer in others.items():
            result[name] += task.agreements(expected, answer(image), CONFIDENCE)
    return result


def _worst(agreements: Mapping[str, Sequence[float]]) -> list[int]:
    """Indices of the images on which a column agrees least with the baseline, those that agree least first."""
    least = [min(values) for values in zip(*agreements.values(), strict=True)]
    differing = [index for index, value in enumerate(least) if value < 1]
    return sorted(differing, key=lambda index: (least[index], index))[:WORST]


def _encoded(canvases: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """JPEG files of RGB images, by name."""
    files: dict[str, bytes] = {}
    for quality in QUALITIES:
        for name, canvas in canvases.items():
            files[name] = cv2.imencode(".jpg", canvas[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if sum(map(len, files.values())) <= MOST_BYTES:
            break
    return files


def _answers(baseline: Model | None, product: Product, threads: int) -> dict[str, Answer]:
    """By name of a column."""
    answers: dict[str, Answer] = {}
    final = {graph.target: graph for graph in product.graphs if graph.target not in product.failures}
    if isinstance(baseline, Evaluable):
        answers[BASELINE] = _answer(accuracy.predictor(baseline.deployed()), baseline)
    if not isinstance(product.model, Evaluable):
        return answers
    if not final and product.model is not baseline:
        answers["result, torch"] = _answer(accuracy.predictor(product.model.deployed()), product.model)
    for target, graph in final.items():
        answers[f"{target} {graph.precision.value}"] = _answer(targets.load(graph, threads), product.model)
    return answers


def _answer(predict: accuracy.Predict, model: Evaluable) -> Answer:
    return lambda image: model.decode(predict(image))


def _targets(answer: Answer, split: Split, task: SupervisedTask) -> list[Any]:
    return [made for image in images(split) for made in task.as_targets(answer(image), CONFIDENCE)]


def _canvas(image: np.ndarray) -> np.ndarray:
    """A uint8 RGB copy of an image (s, s, c), enlarged or reduced to SIDE. Of more channels than three, the first."""
    shown = image if image.shape[2] == 3 else np.repeat(image[:, :, :1], 3, axis=2)
    shown = np.ascontiguousarray(image[:, :, :3]) if image.shape[2] > 3 else shown
    method = cv2.INTER_AREA if image.shape[0] > SIDE else cv2.INTER_LINEAR
    return cv2.resize(shown.clip(0, 255).astype(np.uint8), (SIDE, SIDE), interpolation=method)
