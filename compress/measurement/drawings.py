"""Draws what the baseline and each final file predict for a few validation images, for the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from compress import atomic, targets
from compress.capabilities import Evaluable, Model
from compress.config import Config
from compress.data import DataSet, Split, images
from compress.measurement import accuracy
from compress.product import Product
from compress.tasks import Predictions, SupervisedTask

FOLDER, INDEX = "drawings", "index.json"
IMAGES = 4
CONFIDENCE = 0.25  # lowest score of the instances that are drawn
SIDE = 320  # pixels of a drawing
QUALITY = 85  # of the JPEG files


Answer = Callable[[np.ndarray], Predictions]  # an image float32 (1, c, s, s) in [0, 1] to predictions


def write(folder: Path, data: DataSet, baseline: Model | None, product: Product, config: Config) -> None:
    """Writes `folder`/drawings: JPEG files and `index.json`, {columns: names, rows: file names of each image}. The
    columns are the targets of the data, the baseline in torch, and the last file of each target or, without files, the
    last model. Nothing is written if there is nothing to draw or the task cannot draw. Raises TargetFailed if a file
    cannot be loaded."""
    task = data.task
    if not len(data.validation) or not isinstance(task, SupervisedTask) or type(task).draw is SupervisedTask.draw:
        return
    split = data.validation.subset(IMAGES, config.seed)
    answers = _answers(baseline, product, config.threads)
    labels = "labels" if config.data.labels else "unpruned model"
    columns = {labels: [split.target(index) for index in range(len(split))]}
    columns |= {name: _targets(answer, split, task) for name, answer in answers.items()}
    (folder / FOLDER).mkdir(exist_ok=True)
    rows: list[list[str]] = []
    for index in range(len(split)):
        rows.append([f"{index}-{column}.jpg" for column in range(len(columns))])
        for file, shown in zip(rows[-1], columns.values(), strict=True):
            canvas = _canvas(split.image(index))
            task.draw(canvas, shown[index], SIDE / split.imgsz, data.classes)
            encoded = cv2.imencode(".jpg", canvas[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
            atomic.write(folder / FOLDER / file, encoded.tobytes())
    atomic.write(folder / FOLDER / INDEX, json.dumps({"columns": list(columns), "rows": rows}, indent=1))


def _answers(baseline: Model | None, product: Product, threads: int) -> dict[str, Answer]:
    """By name of a column."""
    answers: dict[str, Answer] = {}
    final = {graph.target: graph for graph in product.graphs if graph.target not in product.failures}
    if isinstance(baseline, Evaluable):
        answers["baseline, torch"] = _answer(accuracy.predictor(baseline.deployed()), baseline)
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
