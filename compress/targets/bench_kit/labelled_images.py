"""Judges a model by the labelled images that are shipped with it: INT8 may answer otherwise on another CPU.

Classifiers by top-1. Detectors by the F1 score of detections of at least CONFIDENCE, each matched to one labelled box
of its class with an intersection over union of at least OVERLAP. Needs numpy alone.
"""

import pathlib
from collections.abc import Callable

import numpy as np

FILE = "labelled_images.npz"
KINDS = ("scores", "detections", "anchors", "rows")  # of raw outputs that are understood, see `judge`
CONFIDENCE = 0.25
OVERLAP = 0.5
SUPPRESS = 0.7  # intersection over union from which on the weaker of two boxes of a class goes


def judge(path: pathlib.Path, output: str, classes: int, predict: "Callable[[np.ndarray], np.ndarray]") -> dict:
    """{metric, value in [0, 1], images} of `predict`, which maps float32 (1, c, s, s) in [0, 1] to a raw output.

    `output` says what that is: "scores" (1, classes); "detections" (1, n, 6), x1, y1, x2, y2, score, class; "anchors"
    (1, 4 + classes, n) with centre, width and height; "rows" (1, n, 4 + classes) with corners. Boxes are in pixels.
    """
    with np.load(path, allow_pickle=False) as file:
        images, labels, owner = file["images"], file["labels"], file["owner"]
    right = found = 0
    for index, image in enumerate(images):
        pixels = np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32) / np.float32(255)
        answer = np.asarray(predict(pixels))[0]
        wanted = labels[owner == index]
        if output == "scores":
            right += int(answer.reshape(-1).argmax() == wanted[0, 0])
        else:
            boxes = detections(answer, output, classes)
            found += len(boxes)
            right += matches(boxes, wanted)
    if output == "scores":
        return {"metric": "top1", "value": right / len(images), "images": len(images)}
    value = 2 * right / max(found + len(labels), 1)
    return {"metric": "F1 at IoU 0.5 and confidence 0.25", "value": value, "images": len(images)}


def detections(answer: np.ndarray, output: str, classes: int) -> np.ndarray:
    """(n, 6) x1, y1, x2, y2, score, class of what is confident, best first."""
    if output == "detections":
        rows = answer[answer[:, 4] >= CONFIDENCE]
        return rows[np.argsort(-rows[:, 4], kind="stable")][:, :6]
    table = answer.T if output == "anchors" else answer
    anchor, cls = np.nonzero(table[:, 4 : 4 + classes] >= CONFIDENCE)
    boxes, scores = table[anchor, :4], table[anchor, 4 + cls]
    if output == "anchors":
        boxes = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
    order = np.argsort(-scores, kind="stable")
    rows = np.concatenate([boxes, scores[:, None], cls[:, None]], axis=1)[order]
    return suppressed(rows) if output == "anchors" else rows


def suppressed(rows: np.ndarray) -> np.ndarray:
    """Without boxes that lie on a better one of their class."""
    kept: list = []
    for row in rows:
        if not any(row[5] == other[5] and overlaps(row[:4], other[None, :4])[0] > SUPPRESS for other in kept):
            kept.append(row)
    return np.array(kept).reshape(-1, 6)


def matches(rows: np.ndarray, wanted: np.ndarray) -> int:
    """How many of `wanted` (n, 5), class and corners, are found, each by one of `rows`, best first."""
    free = np.ones(len(wanted), bool)
    for row in rows:
        shared = np.where(free & (wanted[:, 0] == row[5]), overlaps(row[:4], wanted[:, 1:]), 0.0)
        if len(shared) and shared.max() >= OVERLAP:
            free[shared.argmax()] = False
    return int((~free).sum())


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box with each of (n, 4)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return shared / np.maximum(areas - shared, 1e-9)
