from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.config import DataConfig
from compress.data import Split, batches, images, load
from compress.errors import UserError
from compress.tasks import Batch
from compress.tasks.augmentation import AERIAL


@pytest.fixture
def train(yolo_folder: Path) -> Split:
    config = DataConfig(name="yolo", path=str(yolo_folder / "data.yaml"), calibration_images=1)
    return load(config, 64, 3, 0).train


def epoch(split: Split, number: int = 0, augment: bool = True, skipped: int = 0, seed: int = 0) -> list[Batch]:
    stream = batches(split, batch=4, seed=seed, epoch=number, augment=augment)
    if skipped:
        stream.skip(skipped)
    return list(stream)


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


def test_skipping_leads_to_the_same_batches(train: Split) -> None:
    assert torch.equal(epoch(train, skipped=1)[0]["img"], epoch(train)[1]["img"])
    stream = batches(train, batch=2, seed=0, epoch=0, augment=True)
    whole = list(batches(train, batch=2, seed=0, epoch=0, augment=True))
    next(stream)
    stream.skip(2)  # some of them are in the making already
    rest = list(stream)
    assert [torch.equal(a["img"], b["img"]) for a, b in zip(rest, whole[3:], strict=True)] == [True, True]


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


def test_an_error_in_the_background_reaches_the_caller(train: Split, yolo_folder: Path) -> None:
    for file in (yolo_folder / "images/train").iterdir():
        file.write_bytes(b"gone")
    with pytest.raises(UserError, match="cannot be decoded"):
        epoch(train)
