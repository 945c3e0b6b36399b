"""Semantic segmentation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score

from compress.errors import UserError
from compress.tasks import SEMANTIC, Instances
from compress.tasks.augmentation import Augmentation
from compress.tasks.semantic import IGNORED, MEAN_IOU, MaskFile, PixelClasses

STILL = Augmentation(False, scale=(1, 1), translate=0, brightness=0, colour=0, gamma=0)


def predicted(classes: np.ndarray, confidence: float = 1.0) -> PixelClasses:
    return PixelClasses(classes.astype(np.uint8), np.full((1, 1), confidence, np.float32))


def test_miou_is_that_of_scikit_learn_without_ignored_pixels() -> None:
    rng = np.random.default_rng(0)
    truths = [rng.integers(0, 3, (16, 16)).astype(np.uint8) for _ in range(5)]
    answers = [np.where(rng.random((16, 16)) < 0.7, truth, rng.integers(0, 4, (16, 16))) for truth in truths]
    for truth in truths:
        truth[:2] = IGNORED
    result = MEAN_IOU.evaluate([predicted(each) for each in answers], truths, ["a", "b", "c", "absent"])
    kept = [truth != IGNORED for truth in truths]
    truth = np.concatenate([each[mask] for each, mask in zip(truths, kept)])
    answer = np.concatenate([each[mask] for each, mask in zip(answers, kept)])
    each = jaccard_score(truth, answer, labels=[0, 1, 2], average=None)
    assert result.value == pytest.approx(each.mean()) and list(result.per_class) == ["a", "b", "c"]
    assert list(result.per_class.values()) == pytest.approx(each.tolist())
    assert result.details["pixel_accuracy"] == pytest.approx((truth == answer).mean())
    assert result.ci95[0] < result.value < result.ci95[1] and result.images == 5


def test_data_without_labelled_pixels_is_refused() -> None:
    with pytest.raises(UserError, match="no pixel has a label"):
        MEAN_IOU.evaluate([predicted(np.zeros((8, 8)))], [np.full((8, 8), IGNORED, np.uint8)], ["a", "b"])


def test_polygons_are_filled_and_shifted_by_the_background() -> None:
    square = np.array([[0.25, 0.5], [0.75, 0.5], [0.75, 1], [0.25, 1]], np.float32)
    label = Instances.of([[1, 0.5, 0.75, 0.5, 0.5]], [square])
    target = SEMANTIC.target(label, (16, 8), 16)  # letterboxed to rows 4 to 11
    assert (target[:4] == IGNORED).all() and (target[12:] == IGNORED).all()
    expected = np.zeros((8, 16), np.uint8)
    expected[4:, 4:12] = 2
    assert np.abs((target[4:12] != expected).sum()) <= 12  # the outline
    assert target[10, 8] == 2 and target[5, 8] == 0 and SEMANTIC.classes_in(label) == {2}


def test_masks_are_resized_without_new_classes(tmp_path: Path) -> None:
    mask = np.repeat(np.array([[0, 7], [IGNORED, 3]], np.uint8), 5, axis=0).repeat(5, axis=1)
    Image.fromarray(mask).save(tmp_path / "m.png")
    target = SEMANTIC.target(MaskFile(tmp_path / "m.png", ""), (10, 10), 32)
    assert set(np.unique(target)) == {0, 3, 7, IGNORED} and target[0, 31] == 7


def test_a_mask_of_colours_or_of_no_pixels_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "colours.png")
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n")
    Image.new("L", (4, 4)).save(tmp_path / "other.png", "JPEG")
    Image.new("L", (20000, 20000)).save(tmp_path / "large.png")
    for name in ("colours.png", "damaged.png", "other.png", "large.png"):
        with pytest.raises(UserError, match=name):
            MaskFile(tmp_path / name, "").read()


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_augmentation_moves_image_and_mask_together(chance: float) -> None:
    rng = np.random.default_rng(0)
    masks = [(rng.random((64, 64)) < 0.5).astype(np.uint8).repeat(1, axis=0) for _ in range(4)]
    masks = [np.kron(mask[::16, ::16], np.ones((16, 16), np.uint8)) for mask in masks]
    images = [np.where(mask[:, :, None] > 0, 255, 0).astype(np.uint8) for mask in masks]
    policy = Augmentation(True, True, True, brightness=0, colour=0, gamma=0, mosaic=chance)
    batch = SEMANTIC.collate(images, masks, policy, rng)
    pixels, mask = batch["img"][:, 0], batch["mask"]
    labelled = mask != IGNORED
    agree = ((pixels > 0.5) == (mask == 1))[labelled].float().mean()
    assert agree > 0.95 and labelled.float().mean() > 0.6


def test_loss_ignores_pixels_without_label() -> None:
    outputs, mask = torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)
    mask[:, 2:] = IGNORED
    expected = torch.nn.functional.cross_entropy(outputs[:, :, :2], mask[:, :2].long())
    assert torch.allclose(SEMANTIC.network_loss(outputs, {"mask": mask}), expected)
    assert SEMANTIC.network_loss(outputs, {"mask": torch.full_like(mask, IGNORED)}) == 0


def test_distillation_is_least_for_equal_answers() -> None:
    teacher = torch.randn(1, 3, 4, 4)
    assert SEMANTIC.distillation_loss(teacher, teacher) < SEMANTIC.distillation_loss(
        teacher + torch.randn(3, 1, 1), teacher
    )


def test_decoding_and_confidence_shift() -> None:
    logits = np.zeros((2, 3, 16, 16), np.float32)
    logits[:, 1] = 2.0
    first = SEMANTIC.decode(logits)
    assert len(first) == 2 and (first[0].classes == 1).all() and first[0].confidences.shape == (2, 2)
    assert first[0].confidences[0, 0] == pytest.approx(np.exp(2) / (np.exp(2) + 2))
    assert SEMANTIC.confidence_shift(first, first) == 0
    assert SEMANTIC.confidence_shift(first, SEMANTIC.decode(logits[:, [1, 0, 2]])) == 1.0
    assert len(SEMANTIC.values(first)) == 2


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        (np.zeros((2, 2), np.uint8), None),
        (np.full((2, 2), IGNORED, np.uint8), None),
        (np.full((2, 2), 3, np.uint8), "class 3"),
        (np.zeros((2, 2), np.int64), "expected uint8"),
        (4, "expected uint8"),
    ],
)
def test_labels_of_a_users_data_set_are_checked(label: object, problem: str | None) -> None:
    found = SEMANTIC.label_problem(label, 3)
    assert found is None if problem is None else found is not None and problem in found


def test_outputs_of_networks() -> None:
    assert SEMANTIC.output_classes(torch.zeros(1, 5, 8, 8), 1) == 5
    assert SEMANTIC.output_classes(torch.zeros(1, 5), 1) is None


def test_predictions_replace_masks() -> None:
    answers = SEMANTIC.decode(np.random.default_rng(0).random((2, 3, 16, 16), np.float32))
    targets = SEMANTIC.as_targets(answers, 0.5)
    assert MEAN_IOU.evaluate(answers, targets, ["a", "b", "c"]).value == 1


def test_two_models_agree_on_the_pixels_of_a_class() -> None:
    """Class 0: 2 of 3 pixels; class 1: 1 of 2; class 2: one predicts it, 0 of 1."""
    one, other = np.array([[0, 0], [0, 1]]), np.array([[0, 0], [1, 1]])
    assert SEMANTIC.agreements([predicted(one)], [predicted(one)], 0) == [1]
    assert SEMANTIC.agreements([predicted(one)], [predicted(other)], 0) == pytest.approx([(2 / 3 + 1 / 2) / 2])
    assert SEMANTIC.agreements([predicted(one)], [predicted(one * 2)], 0) == pytest.approx([1 / 3])
