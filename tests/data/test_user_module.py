"""`data=module`: what a user's class may offer, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.config import DataConfig
from compress.data import DataSet, Sample, Split, user_module
from compress.errors import UserError
from compress.tasks import CLASSIFY, DETECT, SupervisedTask
from compress.tasks.augmentation import Augmentation
from tests.data.conftest import write_image
from tests.data.own_data import samples

PIXELS = np.zeros((4, 6, 3), np.uint8)
LIST: Any = [[1]]  # no array


def open_module(
    seed: int = 0, asked: SupervisedTask | None = None, options: dict[str, Any] | None = None, **replaced: Any
) -> DataSet:
    """`Own` with some of its attributes replaced."""
    config = DataConfig(name="module", args=replaced, calibration_images=3, target="tests.data.own_data.Own")
    return user_module.load(replace(config, **(options or {})), 8, 3, seed, asked)


def refusal(**replaced: Any) -> str:
    with pytest.raises(UserError) as caught:
        open_module(**replaced)
    assert caught.value.key == "data.target" and "\n" not in str(caught.value)
    return str(caught.value)


def digests(split: Split) -> list[str]:
    return [sample.digest for sample in split.samples]


def test_images_in_memory_get_size_and_digest() -> None:
    data = open_module()
    assert (data.task, data.classes) == (CLASSIFY, ("cat", "dog"))
    assert [len(split) for split in (data.train, data.calibration, data.validation)] == [9, 3, 4]
    assert {sample.size for sample in data.train.samples} == {(6, 4)}
    assert len(set(digests(data.train) + digests(data.calibration) + digests(data.validation))) == 16
    assert (data.train.imgsz, data.train.channels) == (8, 3)


def test_calibration_is_held_out_of_training_by_seed() -> None:
    one, again, other = open_module(), open_module(), open_module(seed=1)
    assert not set(digests(one.calibration)) & set(digests(one.train))
    assert digests(one.calibration) == digests(again.calibration) != digests(other.calibration)
    assert one.fingerprint == other.fingerprint  # of the whole data


def test_calibration_of_ones_own_leaves_training_whole() -> None:
    own = samples(5, seed=2)
    data = open_module(calibration=lambda: own)
    assert len(data.train) == 12
    assert [np.asarray(sample.source).tolist() for sample in data.calibration.samples] == [
        np.asarray(each.source).tolist() for each in own[:3]
    ]


def test_a_test_split_is_read_only_when_asked_for() -> None:
    def never() -> list[Sample]:
        raise AssertionError("read without need")

    assert not open_module(test=never).extra
    data = open_module(options={"test": True}, test=lambda: samples(6, seed=3))
    assert list(data.extra) == ["test"] and len(data.extra["test"]) == 6


def test_validation_may_be_a_subset_and_the_fingerprint_stays() -> None:
    data = open_module(options={"validation_images": 2})
    assert len(data.validation) == 2 and data.fingerprint == open_module().fingerprint


def test_files_are_named_by_text_or_path_and_measured(tmp_path: Path) -> None:
    for seed in range(2):
        write_image(tmp_path / f"{seed}.png", 20, 10, seed + 10)
    text: Any = str(tmp_path / "0.png")
    files = [Sample(text, 0), Sample(tmp_path / "1.png", 1)]
    result = open_module(validation=lambda: files).validation.samples
    assert [(sample.source, sample.size) for sample in result] == [
        (tmp_path / "0.png", (20, 10)), (tmp_path / "1.png", (20, 10)),
    ]  # fmt: skip
    assert all(sample.digest for sample in result)


def test_data_without_training_images_can_be_evaluated() -> None:
    data = open_module(train=list)
    assert (len(data.train), len(data.calibration), len(data.validation)) == (0, 0, 4)


def test_the_task_is_detection_unless_the_class_or_the_user_says_another() -> None:
    boxes = [Sample(each.source, np.array([[1, 0.5, 0.5, 0.2, 0.2]], np.float32)) for each in samples(4, seed=1)]
    given: dict[str, Any] = {"train": list, "validation": lambda: boxes}
    assert open_module(asked=DETECT, **given).task is DETECT  # `task.target`, against the class
    assert open_module(options={"target": "tests.data.own_data.OwnBoxes"}, **given).task is DETECT
    assert "the label is" in refusal(**given)  # a box is no class number


def test_augmentation_of_ones_own_goes_to_every_split() -> None:
    own = Augmentation(mosaic=0.5)
    data = open_module(augmentation=own)
    assert data.train.augmentation is data.validation.augmentation is own
    assert "augmentation is a dict; expected an Augmentation" in refusal(augmentation={"mosaic": 0.5})


@pytest.mark.parametrize(
    "classes", [None, "cat", [], ["cat", "cat"], ["cat", " "], ["cat", 3], {"cat": 0}], ids=lambda value: repr(value)
)
def test_classes_are_different_names(classes: object) -> None:
    assert "classes must be a sequence of different names" in refusal(classes=classes)


@pytest.mark.parametrize("task", ["magic", 3])
def test_an_unknown_task_lists_those_with_labels(task: object) -> None:
    said = refusal(task=task)
    assert f"task is {task!r}: set one of " in said and "classify" in said and "detect" in said


def test_a_missing_method_is_named() -> None:
    with pytest.raises(UserError, match=r"has no method validation\(\); expected a class with classes"):
        open_module(options={"target": "tests.data.own_data.WithoutValidation"})
    assert "has no method train()" in refusal(train=3)


@pytest.mark.parametrize("error", [ValueError("no disk"), SystemExit(3), KeyError("x")], ids=lambda error: repr(error))
def test_an_error_of_the_users_code_is_named_with_its_method(error: BaseException) -> None:
    def fail() -> list[Sample]:
        raise error

    assert f"validation() raised {type(error).__name__}" in refusal(validation=fail)


def test_a_user_error_of_the_users_code_stays_as_it_is() -> None:
    def fail() -> list[Sample]:
        raise UserError("data.args", 3, "set a year")

    with pytest.raises(UserError, match="^data.args=3: set a year"):
        open_module(validation=fail)


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        ((PIXELS, 0), "validation()[1] is a tuple; expected compress.data.Sample(source, label)"),
        (Sample(PIXELS / 255, 0), "validation()[1]: its image is float64 (4, 6, 3); expected a path, or uint8"),
        (Sample(PIXELS[None], 0), "validation()[1]: its image is uint8 (1, 4, 6, 3); expected"),
        (Sample(PIXELS[0, 0], 0), "validation()[1]: its image is uint8 (3,); expected"),
        (Sample(PIXELS[:0], 0), "validation()[1]: its image is uint8 (0, 6, 3); expected"),
        (Sample(LIST, 0), "validation()[1]: its image is list; expected"),
        (Sample(PIXELS, 2), "validation()[1]: the label is 2; expected a class index from 0 to 1"),
        (Sample(PIXELS, None), "validation()[1]: the label is None"),
    ],
)
def test_a_sample_at_fault_is_named_by_its_place(sample: object, says: str) -> None:
    assert says in refusal(validation=lambda: [samples(1)[0], sample])


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ([[0, 0.5, 0.5, np.nan, 0.2]], "must be fractions of the image, in [0, 1]"),
        ([[0, 0.5, 0.5, 0.2]], "the label is of shape (1, 4); expected float32 (n, 5)"),
        ([[2, 0.5, 0.5, 0.2, 0.2]], "the label's classes must be whole numbers from 0 to 1"),
    ],
)
def test_boxes_at_fault_are_named_by_their_place(label: list[list[float]], says: str) -> None:
    wrong = [Sample(PIXELS, np.array(label, np.float32))]
    assert f"train()[0]: {says}" in refusal(task="detect", train=lambda: wrong).replace("the label's coordinates ", "")


def test_a_split_for_evaluation_without_samples_is_refused() -> None:
    assert "validation() returned no samples" in refusal(validation=list)


def test_an_image_of_training_may_not_be_judged() -> None:
    with pytest.raises(UserError, match=r"^data\.validation=.*splits must not overlap"):
        open_module(validation=lambda: samples(1))


def test_without_labels_they_may_be_missing() -> None:
    own = [replace(each, label=None) for each in samples(12)]
    assert "label" in refusal(train=lambda: own)
    data = open_module(options={"labels": False}, train=lambda: own)
    assert not data.train.labelled and len(data.train) + len(data.calibration) == 12
