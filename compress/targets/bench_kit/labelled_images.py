"""Evaluates a model on the labelled images shipped with it, since INT8 outputs may differ between CPUs. Classifiers:
top-1 accuracy. Detectors: F1 score of the detections with a score of at least CONFIDENCE, each matched to one labelled
box of its class with an IoU (intersection over union) of at least OVERLAP. Of networks that segment or detect keypoints
the boxes are compared. Without labels, the images have predictions of the unpruned model in their place, and the same
numbers are the agreement with it. Needs only numpy."""

import pathlib
from collections.abc import Callable

import numpy as np

FILE = "labelled_images.npz"
BOXES = ("detections", "anchors", "rows")
KINDS = ("scores", *BOXES, *(f"{task}/{kind}" for task in ("segment", "pose") for kind in BOXES))  # see `judge`
CONFIDENCE = 0.25
OVERLAP = 0.5
AGREEMENT = "agreement"  # entry of the file: lowest score of the predictions that replace labels; absent with labels
SUPPRESS = 0.7  # IoU threshold of non-maximum suppression


def judge(path: pathlib.Path, output: str, classes: int, predict: "Callable[[np.ndarray], np.ndarray | tuple]") -> dict:
    """Returns {metric, value in [0, 1], images} of `predict`: float32 (1, c, s, s) in [0, 1] to a raw output, or a
    tuple of which the first is used.

    `output` is its kind: "scores" (1, classes); "detections" (1, n, 6): x1, y1, x2, y2, score, class; "anchors"
    (1, 4 + classes, n): centre, size, scores; "rows" (1, n, 4 + classes): corners, scores. Boxes are in pixels. A kind
    after "segment/" or "pose/" has further values per box: mask coefficients or keypoints.
    """
    output = output.split("/")[-1]
    with np.load(path, allow_pickle=False) as file:
        images, labels, owner = file["images"], file["labels"], file["owner"]
        kind, confidence = ("agreement ", float(file[AGREEMENT])) if AGREEMENT in file else ("", CONFIDENCE)
    correct = detected = 0
    for index, image in enumerate(images):
        pixels = np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32) / np.float32(255)
        raw = predict(pixels)
        raw = np.asarray(raw[0] if isinstance(raw, tuple) else raw)[0]
        expected = labels[owner == index]
        if output == "scores":
            correct += int(raw.reshape(-1).argmax() == expected[0, 0])
        else:
            boxes = detections(raw, output, classes, confidence)
            detected += len(boxes)
            correct += matches(boxes, expected)
    if output == "scores":
        return {"metric": kind + "top1", "value": correct / len(images), "images": len(images)}
    value = 2 * correct / max(detected + len(labels), 1)
    return {"metric": f"{kind}F1 at IoU 0.5 and confidence {confidence:g}", "value": value, "images": len(images)}


def detections(raw: np.ndarray, output: str, classes: int, confidence: float = CONFIDENCE) -> np.ndarray:
    """Detections with a score of at least `confidence`: (n, 6) x1, y1, x2, y2, score, class, in descending score."""
    if output == "detections":
        rows = raw[raw[:, 4] >= confidence]
        return rows[np.argsort(-rows[:, 4], kind="stable")][:, :6]
    table = raw.T if output == "anchors" else raw
    anchor, cls = np.nonzero(table[:, 4 : 4 + classes] >= confidence)
    boxes, scores = table[anchor, :4], table[anchor, 4 + cls]
    if output == "anchors":
        boxes = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
    order = np.argsort(-scores, kind="stable")
    rows = np.concatenate([boxes, scores[:, None], cls[:, None]], axis=1)[order]
    return suppressed(rows) if output == "anchors" else rows


def suppressed(rows: np.ndarray) -> np.ndarray:
    """Non-maximum suppression per class. Rows are in descending score."""
    selected: list = []
    for row in rows:
        if not any(row[5] == other[5] and overlaps(row[:4], other[None, :4])[0] > SUPPRESS for other in selected):
            selected.append(row)
    return np.array(selected).reshape(-1, 6)


def matches(rows: np.ndarray, expected: np.ndarray) -> int:
    """Number of labelled boxes, (n, 5) of class and corners, that are detected. Each detection, in descending score,
    takes the unmatched box of its class with the largest IoU."""
    unmatched = np.ones(len(expected), bool)
    for row in rows:
        ious = np.where(unmatched & (expected[:, 0] == row[5]), overlaps(row[:4], expected[:, 1:]), 0.0)
        if len(ious) and ious.max() >= OVERLAP:
            unmatched[ious.argmax()] = False
    return int((~unmatched).sum())


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of a box (4,) with each of `others` (n, 4)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    intersections = np.clip(high - low, 0, None).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return intersections / np.maximum(areas - intersections, 1e-9)
