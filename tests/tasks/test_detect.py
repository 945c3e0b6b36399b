from __future__ import annotations

import numpy as np
import pytest

from compress.errors import UserError
from compress.tasks import DETECT
from compress.tasks.augmentation import Augmentation
from compress.tasks.detect import MEAN_AVERAGE_PRECISION
from tests.fakes import detections, truth

BOX = (0, 0, 10, 10)


def test_labels_become_pixels_of_the_letterboxed_input() -> None:
    """A wide image of 200 x 100 fills 64 x 32 pixels in the middle of a square of 64."""
    label = np.array([[3, 0.5, 0.5, 1, 1], [1, 0.25, 0.25, 0.5, 0.5]], np.float32)
    target = DETECT.target(label, (200, 100), 64)
    assert target.dtype == np.float32
    assert target.tolist() == [[3, 0, 16, 64, 48], [1, 0, 16, 32, 32]]
    assert DETECT.classes_in(label) == {1, 3}
    assert DETECT.target(label[:0], (200, 100), 64).shape == (0, 5)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([1, 0.5, 0.5, 0.1, 0.1], "the label is list"),
        (np.zeros(5), "of shape \\(5,\\)"),
        (np.zeros((1, 4)), "of shape \\(1, 4\\)"),
        (np.array([[0, 0.5, np.nan, 0.1, 0.1]]), "fractions of the image"),
        (np.array([[0, 0.5, 1.5, 0.1, 0.1]]), "fractions of the image"),
        (np.array([[0, 0.5, 0.5, 0, 0.1]]), "of zero width or height"),
        (np.array([[0.5, 0.5, 0.5, 0.1, 0.1]]), "whole numbers from 0 to 1"),
        (np.array([[2, 0.5, 0.5, 0.1, 0.1]]), "whole numbers from 0 to 1"),
    ],
)
def test_what_is_wrong_with_a_label_is_described(label: object, message: str) -> None:
    problem = DETECT.label_problem(label, 2)
    assert problem is not None
    with pytest.raises(ValueError, match=message):
        raise ValueError(problem)


def test_good_labels_have_no_problem() -> None:
    assert DETECT.label_problem(np.array([[1, 0.5, 0.5, 1, 1]], np.float32), 2) is None
    assert DETECT.label_problem(np.zeros((0, 5), np.float32), 2) is None


def images(count: int) -> list[np.ndarray]:
    return [np.full((16, 16, 3), 10 * index, np.uint8) for index in range(count)]


def test_a_batch_says_which_image_a_box_belongs_to() -> None:
    batch = DETECT.collate(images(3), [truth((1, 0, 4, 8, 8), (0, 0, 0, 16, 16)), truth(), truth((2, 8, 8, 16, 12))],
                           Augmentation(), None)  # fmt: skip
    assert batch["img"].shape == (3, 3, 16, 16)
    assert batch["cls"].tolist() == [[1], [0], [2]] and batch["batch_idx"].tolist() == [0, 0, 2]
    np.testing.assert_allclose(batch["bboxes"], [[0.25, 0.375, 0.5, 0.25], [0.5, 0.5, 1, 1], [0.75, 0.625, 0.5, 0.25]])


def test_confidence_shifts_are_measured_on_the_same_object() -> None:
    before = [detections((0, 0.9, *BOX), (0, 0.6, 20, 20, 30, 30), (1, 0.1, *BOX))]
    moved = [detections((0, 0.8, 0, 0, 10, 9), (0, 0.55, 20, 20, 30, 30))]
    assert DETECT.confidence_shift(before, moved) == pytest.approx(0.075)  # median of 0.1 and 0.05
    elsewhere = [detections((0, 0.9, 50, 50, 60, 60))]
    assert DETECT.confidence_shift(before, elsewhere) == 1  # neither is found again
    other_class = [detections((1, 0.9, *BOX), (0, 0.6, 20, 20, 30, 30))]
    assert DETECT.confidence_shift(before, other_class) == pytest.approx(0.5)
    assert DETECT.confidence_shift([detections((0, 0.2, *BOX))], moved) is None


def test_output_formats_have_names() -> None:
    assert DETECT.output_kind(end_to_end=False, postprocessed=False) == "anchors"
    assert DETECT.output_kind(end_to_end=True, postprocessed=True) == "detections"
    assert DETECT.output_kind(end_to_end=True, postprocessed=False) == "rows"


def test_boxes_and_scores_must_be_numbers() -> None:
    result = detections((0, np.nan, *BOX))
    assert [bool(np.isnan(array).any()) for array in DETECT.values([result])] == [False, True]


def test_images_without_any_object_are_refused() -> None:
    with pytest.raises(UserError, match="none has a labelled object"):
        MEAN_AVERAGE_PRECISION.evaluate([detections((0, 0.9, *BOX))], [truth()], ("cow",))


def test_the_average_is_over_classes_with_objects() -> None:
    actual = [detections((0, 0.9, *BOX)), detections((2, 0.9, *BOX))]
    result = MEAN_AVERAGE_PRECISION.evaluate(actual, [truth((0, *BOX)), truth((1, *BOX))], ("a", "b", "c"))
    assert result.per_class == pytest.approx({"a": 1, "b": 0})
    assert (result.value, result.map50, result.images) == (pytest.approx(0.5), pytest.approx(0.5), 2)


def test_every_metric_is_the_mean_over_its_thresholds() -> None:
    """IoU 0.72 is a match at five of the ten thresholds."""
    actual, expected = [detections((0, 0.9, 0, 0, 10, 7.2))], [truth((0, *BOX))]
    results = {name: each.evaluate(actual, expected, ("a",)) for name, each in DETECT.metrics(1).items()}
    values = {"mAP50-95": 0.5, "mAP50": 1.0, "mAP75": 0.0}
    assert {name: result.value for name, result in results.items()} == pytest.approx(values)
    for name, result in results.items():
        assert result.metric == name and result.map50 == pytest.approx(1)
        assert result.per_class == pytest.approx({"a": values[name]})
        others = {other: value for other, value in values.items() if other != name}
        assert result.details == pytest.approx({**others, "mAP50-95_small": 0.5})
        assert result.ci95 == pytest.approx((values[name], values[name]))


def test_two_models_agree_on_the_boxes_that_both_predict() -> None:
    """Of two boxes and three others, one pair matches: 2 x 1 / 5. The last box has too low a score to count."""
    before = [detections((0, 0.9, *BOX), (1, 0.8, 20, 20, 30, 30)), detections(), detections()]
    after = [
        detections((0, 0.9, 0, 0, 10, 9), (0, 0.8, *BOX), (0, 0.5, 20, 20, 30, 30), (1, 0.1, 20, 20, 30, 30)),
        detections((0, 0.1, *BOX)),
        detections((0, 0.5, *BOX)),
    ]
    assert DETECT.agreements(before, after, 0.25) == [0.4, 1.0, 0.0]
