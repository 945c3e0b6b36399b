from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from compress.tasks.mean_ap import Detections
from compress.tasks.size_ap import average_precision_by_size
from tests.fakes import detections, truth

SMALL, LARGE = (0, 0, 20, 20), (100, 100, 220, 220)


def scaled_case(images: int, classes: int, seed: int) -> tuple[list[Detections], list[np.ndarray]]:
    """Boxes of all sizes, and detections that are shifted, resized, of a wrong class, or elsewhere."""
    rng, found, truths = np.random.default_rng(seed), [], []

    def boxes(count: int) -> np.ndarray:
        corner, side = rng.uniform(0, 300, (count, 2)), np.exp(rng.uniform(np.log(8), np.log(250), (count, 2)))
        return np.concatenate([corner, corner + side], axis=1).astype(np.float32)

    for _ in range(images):
        objects = boxes(int(rng.integers(0, 12)))
        labels = rng.integers(classes, size=len(objects))
        truths.append(np.concatenate([labels[:, None], objects], axis=1).astype(np.float32))
        copies = np.repeat(objects, 2, axis=0)
        sides = np.tile(copies[:, 2:] - copies[:, :2], 2)
        moved = np.concatenate([copies + rng.normal(0, 0.08, copies.shape) * sides, boxes(4)]).astype(np.float32)
        guesses = np.concatenate([np.where(rng.random(len(copies)) < 0.9, np.repeat(labels, 2), 0), [0] * 4])
        scores = np.sort(rng.random(len(moved)).astype(np.float32))[::-1]
        found.append(Detections(moved, scores, guesses.astype(np.int64)))
    return found, truths


def test_agrees_with_pycocotools() -> None:
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    found, truths = scaled_case(40, 3, seed=2)

    def wide(box: np.ndarray) -> list[float]:
        corners = box.astype(np.float64)
        return [*corners[:2].tolist(), *(corners[2:] - corners[:2]).tolist()]

    annotations = [
        {"image_id": i, "category_id": int(row[0]), "bbox": wide(row[1:]), "iscrowd": 0}
        for i, rows in enumerate(truths)
        for row in rows
    ]
    for index, annotation in enumerate(annotations):
        width, height = annotation["bbox"][2:]  # type: ignore[index]
        annotation |= {"id": index + 1, "area": width * height}
    results = [
        {"image_id": i, "category_id": int(c), "bbox": wide(b), "score": float(s)}
        for i, each in enumerate(found)
        for b, s, c in zip(each.boxes, each.scores, each.classes, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = coco.COCO()
        dataset.dataset = {
            "info": {}, "images": [{"id": i} for i in range(40)], "annotations": annotations,
            "categories": [{"id": c} for c in range(3)],
        }  # fmt: skip
        dataset.createIndex()
        judge = cocoeval.COCOeval(dataset, dataset.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    expected = dict(zip(("small", "medium", "large"), judge.stats[3:6], strict=True))
    assert min(expected.values()) > 0.1
    assert average_precision_by_size(found, truths, 3) == pytest.approx(expected)


def test_objects_of_another_size_are_ignored() -> None:
    """A large detection on the large object is neither right nor wrong among the small ones."""
    both = [truth((0, *SMALL), (0, *LARGE))]
    only_small = average_precision_by_size([detections((0, 0.9, *SMALL))], both, 1)
    assert only_small == pytest.approx({"small": 1, "large": 0})
    large_first = [detections((0, 0.9, *LARGE), (0, 0.8, 300, 300, 500, 500), (0, 0.7, *SMALL))]
    assert average_precision_by_size(large_first, both, 1) == pytest.approx({"small": 1, "large": 1})
    wrong_small = [detections((0, 0.9, 50, 50, 60, 60), (0, 0.8, *SMALL))]
    assert average_precision_by_size(wrong_small, both, 1)["small"] == pytest.approx(0.5)


def test_a_size_or_class_without_objects_has_no_value() -> None:
    one = average_precision_by_size([detections((0, 0.9, *SMALL), (1, 0.9, *LARGE))], [truth((0, *SMALL))], 2)
    assert one == pytest.approx({"small": 1})
    assert average_precision_by_size([detections()], [truth((1, *LARGE))], 2) == {"large": 0}
