"""Labelled images of an artifact, and their evaluation by the bench kit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from compress.targets import artifact
from compress.targets.bench_kit import labelled_images
from compress.targets.bench_kit.labelled_images import FILE, judge

SIDE = 64
# Two images, one with two boxes of different classes, one with one box: class and corners in pixels.
TARGETS = [
    np.array([[0, 0, 0, 20, 20], [1, 30, 30, 60, 60]], np.float32),
    np.array([[1, 10, 10, 40, 40]], np.float32),
]


def write(folder: Path, targets: Sequence[np.ndarray | int]) -> Path:
    images = [np.full((SIDE, SIDE, 3), index, np.uint8) for index in range(len(targets))]
    artifact.add_labelled_images(folder, images, targets)
    return folder / FILE


def number_of(pixels: np.ndarray) -> int:
    return round(float(pixels.max()) * 255)


def rows_of(number: int) -> np.ndarray:
    """(n, 6) corners, score and class: every labelled box, a duplicate of the first, and one with a low score."""
    boxes = TARGETS[number]
    confident = [[*box[1:], 0.9, box[0]] for box in boxes] + [[*(box[1:] + 1), 0.5, box[0]] for box in boxes[:1]]
    return np.array([*confident, [0, 0, 5, 5, 0.1, 0]], np.float32)


def anchors_of(number: int, *, centres: bool) -> np.ndarray:
    """(n, 4 + 2) boxes and the scores of two classes."""
    rows = rows_of(number)
    scores = np.zeros((len(rows), 2), np.float32)
    scores[np.arange(len(rows)), rows[:, 5].astype(int)] = rows[:, 4]
    corners = rows[:, :4]
    if centres:
        corners = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
    return np.concatenate([corners, scores], axis=1)


DETECTORS: list[tuple[str, Callable[[int], np.ndarray], int]] = [  # kind of output, output of an image, detections
    ("detections", rows_of, 5),  # duplicates count as wrong: nothing suppresses them
    ("rows", lambda number: anchors_of(number, centres=False), 5),
    ("anchors", lambda number: anchors_of(number, centres=True).T, 3),  # duplicates are suppressed
]


@pytest.mark.parametrize(("output", "raw", "detected"), DETECTORS)
def test_detectors(output: str, raw: Callable[[int], np.ndarray], detected: int, tmp_path: Path) -> None:
    path = write(tmp_path, TARGETS)
    result = judge(path, output, 2, lambda pixels: raw(number_of(pixels))[None])
    assert result["images"] == 2
    assert result["value"] == pytest.approx(2 * 3 / (detected + 3))


@pytest.mark.parametrize(("output", "raw", "detected"), DETECTORS)
def test_of_a_segmenter_the_boxes_are_judged(
    output: str, raw: Callable[[int], np.ndarray], detected: int, tmp_path: Path
) -> None:
    """Coefficients above all scores follow each box, and prototypes are a second output."""

    def predict(pixels: np.ndarray) -> tuple[np.ndarray, ...]:
        rows = raw(number_of(pixels))
        axis = 0 if output == "anchors" else 1
        shape = (32, rows.shape[1]) if output == "anchors" else (len(rows), 32)
        return np.concatenate([rows, np.full(shape, 7, np.float32)], axis=axis)[None], np.ones((1, 32, 16, 16))

    result = judge(write(tmp_path, TARGETS), f"segment/{output}", 2, predict)
    assert result["value"] == pytest.approx(2 * 3 / (detected + 3))


def test_a_detector_that_finds_nothing_or_the_wrong_class_has_no_value(tmp_path: Path) -> None:
    path = write(tmp_path, TARGETS)
    assert judge(path, "detections", 2, lambda _: np.zeros((1, 300, 6), np.float32))["value"] == 0
    wrong = [[*TARGETS[0][0, 1:], 0.9, 1]]
    assert judge(path, "detections", 2, lambda _: np.array([wrong], np.float32))["value"] == 0


def test_classifiers(tmp_path: Path) -> None:
    path = write(tmp_path, [0, 1, 1, 0])
    result = judge(path, "scores", 2, lambda pixels: np.eye(2)[None, number_of(pixels) % 2])
    assert (result["metric"], result["value"], result["images"]) == ("top1", 0.5, 4)


def test_images_are_given_as_the_network_takes_them(tmp_path: Path) -> None:
    predict = Mock(return_value=np.ones((1, 2)))
    judge(write(tmp_path, [0, 1]), "scores", 2, predict)
    first, second = (call.args[0] for call in predict.call_args_list)
    assert first.dtype == np.float32 and first.shape == (1, 3, SIDE, SIDE)
    assert second.max() == np.float32(1 / 255)


def test_a_background_image_costs_what_is_found_on_it(tmp_path: Path) -> None:
    path = write(tmp_path, [TARGETS[0], np.zeros((0, 5), np.float32)])
    result = judge(path, "detections", 2, lambda _: rows_of(0)[None])
    assert result["value"] == pytest.approx(2 * 2 / (3 + 3 + 2))
    assert labelled_images.CONFIDENCE == 0.25


def test_predictions_in_place_of_labels_are_an_agreement(tmp_path: Path) -> None:
    images = [np.full((SIDE, SIDE, 3), index, np.uint8) for index in range(2)]
    artifact.add_labelled_images(tmp_path, images, TARGETS, 0.6)
    judged = judge(tmp_path / FILE, "detections", 2, lambda pixels: rows_of(number_of(pixels))[None])
    assert judged == {"metric": "agreement F1 at IoU 0.5 and confidence 0.6", "value": 1.0, "images": 2}
    artifact.add_labelled_images(tmp_path, images, [1, 0], 0.6)
    judged = judge(tmp_path / FILE, "scores", 2, lambda pixels: np.array([[0.1, 0.9]]))
    assert judged == {"metric": "agreement top1", "value": 0.5, "images": 2}
