from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from compress.config import DataConfig
from compress.data import load
from compress.data.dataset import hold_out
from compress.data.sample import Sample
from compress.data.subset import stratified
from compress.errors import UserError
from compress.tasks import CLASSIFY, DETECT
from tests.data.conftest import write_image

PIXELS = np.zeros((2, 2), np.uint8)


def classified(*sizes: int) -> list[Sample]:
    """Samples sorted by class, as folders are."""
    return [Sample(PIXELS, label, (2, 2), f"{label}/{i}") for label, size in enumerate(sizes) for i in range(size)]


def detected(*classes: list[int]) -> list[Sample]:
    rows = [np.array([[c, 0.5, 0.5, 0.1, 0.1] for c in each], np.float32).reshape(-1, 5) for each in classes]
    return [Sample(PIXELS, row, (2, 2), str(i)) for i, row in enumerate(rows)]


def strata(samples: list[Sample]) -> list[set[int]]:
    task = CLASSIFY if isinstance(samples[0].label, int) else DETECT
    return [task.classes_in(sample.label) for sample in samples]


def labels(samples: list[Sample], drawn: list[int]) -> Counter[object]:
    return Counter(samples[i].label for i in drawn)


@pytest.mark.parametrize("count", [10, 25, 40, 100])
def test_every_class_has_its_share_to_one_sample(count: int) -> None:
    samples = classified(100, 50, 30, 20)
    result = labels(samples, stratified(strata(samples), count, seed=0))
    assert sum(result.values()) == count
    for label, size in enumerate((100, 50, 30, 20)):
        assert abs(result[label] - count * size / 200) <= 1


def test_a_subset_depends_on_the_seed_and_is_part_of_a_larger_one() -> None:
    samples = classified(40, 40, 40)
    small, large = stratified(strata(samples), 12, seed=3), stratified(strata(samples), 30, seed=3)
    assert large[:12] == small and len(set(large)) == 30
    assert stratified(strata(samples), 12, seed=4) != small


def test_detection_goes_by_the_rarest_class_in_an_image_and_knows_empty_images() -> None:
    samples = detected(*[[0]] * 40, *[[0, 1]] * 40, *[[]] * 20)
    drawn = stratified(strata(samples), 10, seed=0)
    kinds = Counter(0 if i < 40 else 1 if i < 80 else -1 for i in drawn)
    assert all(abs(kinds[kind] - wanted) <= 1 for kind, wanted in {0: 4, 1: 4, -1: 2}.items())


def test_classification_holds_out_every_class() -> None:
    train, calibration = hold_out(classified(60, 60, 60), 30, seed=0)
    assert labels(calibration, list(range(30))) == {0: 10, 1: 10, 2: 10}
    assert not {s.digest for s in train} & {s.digest for s in calibration} and len(train) == 150


def test_folders_sorted_by_class_are_judged_on_all_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seed = 0
    for split, size in (("train", 4), ("val", 6)):
        for name in "abc":
            for i in range(size):
                write_image(tmp_path / split / name / f"{i}.png", 4, 4, seed := seed + 1)

    def classes(count: int | None) -> list[int]:
        config = DataConfig(name="image_folder", path=str(tmp_path), calibration_images=3, validation_images=count)
        validation = load(config, 4, 3, 0).validation
        return sorted(int(validation.target(i)) for i in range(len(validation)))

    assert classes(6) == [0, 0, 1, 1, 2, 2]
    assert classes(None) == classes(99) == [0] * 6 + [1] * 6 + [2] * 6
    assert "data.validation_images=99: the split has 18" in caplog.text


@pytest.mark.parametrize("count", [0, -1])
def test_no_validation_images_are_refused(count: int) -> None:
    with pytest.raises(UserError, match=r"data\.validation_images=.*set at least 1"):
        DataConfig(validation_images=count)
