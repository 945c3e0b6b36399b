from __future__ import annotations

import importlib
import pickle
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from compress.config import DataConfig
from compress.data import Sample, Split, TrainingBatches, batches, images, load
from compress.data.dataset import unlabelled
from compress.data.streams import ProcessStream, ThreadStream
from compress.errors import UserError
from compress.tasks import DETECT, Batch
from compress.tasks.augmentation import AERIAL
from tests.data.makers import Odd


@pytest.fixture
def train(yolo_folder: Path) -> Split:
    config = DataConfig(name="yolo", path=str(yolo_folder / "data.yaml"), calibration_images=1)
    return load(config, 64, 3, 0).train


def epoch(split: Split, number: int = 0, augment: bool = True, seed: int = 0) -> list[Batch]:
    return list(batches(split, batch=4, seed=seed, epoch=number, augment=augment))


def training(split: Split, workers: int = 0, batch: int = 4) -> TrainingBatches:
    return TrainingBatches(split, batch=batch, seed=5, augment=True, workers=workers)


def taken(source: TrainingBatches, count: int, *position: Any, **options: Any) -> list[Batch]:
    """The next `count` batches from a position."""
    with closing(source.start(*position, **options)) as stream:
        return [next(stream) for _ in range(count)]


def same(first: list[Batch], second: list[Batch]) -> bool:
    """Bit for bit, with the memory layout, on which the results of convolutions depend."""
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) and a[key].stride() == b[key].stride() for key in a)
        for a, b in zip(first, second, strict=True)
    )


def expected(split: Split, number: int, part: tuple[int, int] = (0, 1)) -> list[Batch]:
    """The batches of an epoch, computed without streams, in the way that all accuracies so far were measured."""
    order, made = np.random.default_rng((5, number)).permutation(len(split)), []
    for index in range(len(split) // 4):
        rows = np.split(order[4 * index : 4 * index + 4], part[1])[part[0]].tolist()
        seed = (5, number, index) if part[1] == 1 else (5, number, index, part[0])
        images, targets = [split.image(i) for i in rows], [split.target(i) for i in rows]
        made.append(DETECT.collate(images, targets, split.augmentation, np.random.default_rng(seed)))
    return made


def test_a_detection_batch_keeps_the_contract(train: Split) -> None:
    made = epoch(train, augment=False)
    assert len(made) == 2  # 11 images, the last three dropped
    batch = made[0]
    assert batch["img"].shape == (4, 3, 64, 64) and batch["img"].is_contiguous(memory_format=torch.channels_last)
    assert batch["img"].min() >= 0 and 0.9 < batch["img"].max() <= 1
    assert {key: value.dtype for key, value in batch.items()} == dict.fromkeys(batch, torch.float32)
    assert batch["cls"].shape == (4, 1) and batch["batch_idx"].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(batch["bboxes"], [[0.5, 0.5, 0.25, 0.25]] * 4)


def test_an_augmented_batch_keeps_the_contract(train: Split) -> None:
    for batch in epoch(replace(train, augmentation=replace(AERIAL, mosaic=0.5))):
        assert {key: value.dtype for key, value in batch.items()} == dict.fromkeys(batch, torch.float32)
        corners = torch.cat(
            [batch["bboxes"][:, :2] - batch["bboxes"][:, 2:] / 2, batch["bboxes"].sum(1, keepdim=True)], 1
        )
        assert corners[:, :2].min() >= -1e-6 and batch["batch_idx"].max() <= 3
        assert len(batch["bboxes"]) == len(batch["cls"]) == len(batch["batch_idx"])


def test_order_and_augmentation_depend_on_seed_and_epoch_alone(train: Split) -> None:
    first, again = epoch(train), epoch(train)
    assert all(torch.equal(a["img"], b["img"]) for a, b in zip(first, again, strict=True))
    for other in (epoch(train, number=1), epoch(train, seed=1)):
        assert not torch.equal(first[0]["img"], other[0]["img"])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_equal_with_any_number_of_workers_and_from_any_position(workers: int, train: Split) -> None:
    train = replace(train, augmentation=replace(AERIAL, mosaic=0.5))
    endless = [*expected(train, 3), *expected(train, 4), *expected(train, 5)]
    source = training(train, workers)
    assert len(source) == 2  # 11 images
    assert same(taken(source, 6, 3), endless)
    assert same(taken(source, 3, 3, 1), endless[1:4])
    assert same(taken(source, 2, 3, 2), endless[2:4])  # the end of an epoch is the start of the next


@pytest.mark.parametrize("workers", [0, 2])
def test_parts_of_a_batch(workers: int, train: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    source, opened, read = training(train, workers), list[str](), cv2.imread

    def reading(file: str, flag: int) -> Any:
        opened.append(file)
        return read(file, flag)

    monkeypatch.setattr(cv2, "imread", reading)
    halves = [taken(source, 3, 0, part=(k, 2)) for k in range(2)]
    assert workers or len(opened) <= 2 * 2 * 6  # with those made ahead: only its own two images of each batch
    for k in range(2):
        assert same(halves[k], [*expected(train, 0, (k, 2)), *expected(train, 1, (k, 2))][:3])
    quarters = taken(source, 4, 0, part=(1, 2), accumulate=2)
    assert same(quarters, [expected(train, 0, (k, 4))[index] for index in range(2) for k in (2, 3)])
    assert [len(batch["img"]) for batch in quarters] == [1] * 4


def test_a_batch_that_cannot_be_divided_is_refused(train: Split) -> None:
    with pytest.raises(UserError, match=r"finetune\.batch=4: set a multiple of 6, the number of slices of a batch"):
        training(train).start(0, part=(0, 2), accumulate=3)


def test_every_image_is_seen_once_an_epoch(train: Split) -> None:
    stream = batches(train, batch=1, seed=0, epoch=0, augment=False)
    means = sorted(batch["img"].mean().item() for batch in stream)
    expected = sorted(float(image.mean()) for image in images(train))
    np.testing.assert_allclose(means, expected, rtol=1e-5)


def test_images_come_in_order(train: Split) -> None:
    made = list(images(train.first(6), batch=4))
    assert [len(part) for part in made] == [4, 2]
    assert made[0].dtype == np.float32 and made[0].flags.c_contiguous
    np.testing.assert_array_equal(made[1][1], train.image(5).transpose(2, 0, 1) / np.float32(255))


def test_a_split_smaller_than_a_batch_is_refused(train: Split) -> None:
    with pytest.raises(UserError, match="11 images"):
        batches(train, batch=12, seed=0, epoch=0, augment=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_decoded_is_named_in_the_middle_of_an_epoch(workers: int, train: Split) -> None:
    order = np.random.default_rng((5, 0)).permutation(len(train))
    file = train.samples[order[6]].source
    assert isinstance(file, Path)
    file.write_bytes(b"gone")
    with closing(training(train, workers).start(0)) as stream:
        next(stream)
        with pytest.raises(UserError) as caught:
            next(stream)
    assert str(caught.value) == f"data={file}: the image cannot be decoded: fix or remove it"
    assert caught.value.__cause__ is None


def odd(*labels: int) -> Split:
    images = [np.full((4, 4, 3), index, np.uint8) for index in range(len(labels))]
    samples = [Sample(image, label, (4, 4)) for image, label in zip(images, labels)]
    return Split("train", samples, 4, 3, Odd("odd"))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("label", "says"),
    [
        (7, "`weight` of its batch is not finite: correct its label, 7, or tests.data.makers.Odd"),
        (8, "its task raised ValueError: no such class: correct its label, 8, or tests.data.makers.Odd"),
    ],
)
def test_a_task_of_the_user_that_fails(workers: int, label: int, says: str) -> None:
    with closing(training(odd(1, 1, label, 1), workers).start(0)) as stream, pytest.raises(UserError) as caught:
        next(stream)
    assert str(caught.value) == f"data=an image of 4 x 4 pixels: {says}"


def test_a_task_of_this_script_needs_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    class Local(Odd):
        pass

    source = training(replace(odd(1, 1, 1, 1), task=Local("local")), workers=2)
    assert "data.workers=2: the data cannot be sent to worker processes" in caplog.text
    assert len(taken(source, 1, 0)[0]["img"]) == 4


@pytest.mark.filterwarnings("error")
def test_more_workers_than_cpus_are_allowed_with_a_warning(
    train: Split, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.import_module("compress.data.batches"), "usable_threads", lambda: 1)
    assert len(taken(training(train, workers=9), 1, 0)) == 1
    assert "data.workers=9: this process may use only 1 CPUs" in caplog.text


def test_the_data_set_says_how_many_workers(train: Split, yolo_folder: Path) -> None:
    config = DataConfig(name="yolo", path=str(yolo_folder / "data.yaml"), calibration_images=1, workers=1)
    source = TrainingBatches(load(config, 64, 3, 0).train, batch=4, seed=0, augment=True)
    for given, kind in ((source, ProcessStream), (TrainingBatches(train, batch=4, seed=0, augment=True), ThreadStream)):
        with closing(given.start(0)) as stream:
            assert type(stream) is kind


def test_ten_thousand_samples_are_not_sent_to_the_workers(train: Split) -> None:
    large = replace(train, samples=[*train.samples] * 1000)
    assert len(pickle.dumps(training(large)._make)) < 2000


def test_images_without_labels_are_augmented_like_those_with(train: Split) -> None:
    train = replace(train, augmentation=replace(train.augmentation, mosaic=0.5))
    bare = replace(train, samples=unlabelled(train.samples))
    for with_labels, without in zip(epoch(train), epoch(bare), strict=True):
        assert without.keys() == {"img"} and torch.equal(without["img"], with_labels["img"])
