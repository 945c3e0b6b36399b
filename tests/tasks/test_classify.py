from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from compress.tasks import CLASS_WEIGHTS, CLASSIFY
from compress.tasks.augmentation import Augmentation
from compress.tasks.classify import TEMPERATURE, TOP1

IMAGES = [np.full((4, 4, 3), value, np.uint8) for value in (0, 51, 255)]


def test_top_1_counts_the_images_whose_label_scores_highest() -> None:
    scores = np.array([[3, 1, 0], [0, 2, 1], [0, 2, 1], [5, 0, 0]], np.float32)
    result = TOP1.evaluate(list(scores), [0, 1, 2, 0], ("a", "b", "c"))
    assert (result.metric, result.value, result.images, result.chance) == ("top1", 0.75, 4, 0.5)
    assert result.per_class == {"a": 1, "b": 1, "c": 0}
    assert result.ci95[0] <= 0.75 <= result.ci95[1]


def test_a_class_without_images_has_no_accuracy() -> None:
    assert TOP1.evaluate([np.array([1.0, 0])], [0], ("a", "b")).per_class == {"a": 1}


def test_a_batch_without_augmentation_is_the_images_scaled() -> None:
    batch = CLASSIFY.collate(IMAGES, [2, 0, 1], Augmentation(), None)
    assert batch["img"].shape == (3, 3, 4, 4) and batch["img"].dtype == torch.float32
    assert batch["img"][:, 0, 0, 0].tolist() == pytest.approx([0, 0.2, 1])
    assert batch["cls"].tolist() == [2, 0, 1] and batch["cls"].dtype == torch.int64


@pytest.mark.parametrize("label", [-1, 3, True, 1.0, "cat", None, np.array([1])])
def test_a_label_that_is_no_class_is_described(label: object) -> None:
    problem = CLASSIFY.label_problem(label, 3)
    assert problem is not None and "class index from 0 to 2" in problem


def test_class_indices_are_labels() -> None:
    assert CLASSIFY.label_problem(2, 3) is None and CLASSIFY.label_problem(np.int32(0), 3) is None
    assert CLASSIFY.classes_in(2) == {2} and CLASSIFY.target(2, (5, 7), 16) == 2


def test_the_loss_is_the_mean_negative_log_probability() -> None:
    logits = torch.tensor([[1.0, 2, 0], [0, 0, 3]])
    expected = -(logits.softmax(1).log()[0, 1] + logits.softmax(1).log()[1, 2]) / 2
    assert CLASSIFY.network_loss(logits, {"cls": torch.tensor([1, 2])}) == pytest.approx(expected.item())


def test_classes_may_have_weights_in_the_loss() -> None:
    """The loss of a batch is the mean over its images, so that its parts may be computed one after another."""
    logits, labels = torch.tensor([[1.0, 2, 0], [0, 0, 3], [1, 0, 0]]), torch.tensor([1, 2, 1])
    weights = torch.tensor([9.0, 0.5, 2])
    single = F.cross_entropy(logits, labels, reduction="none")
    result = CLASSIFY.network_loss(logits, {"cls": labels, CLASS_WEIGHTS: weights})
    assert result.item() == pytest.approx((single * weights[labels]).mean().item())
    parts = [
        CLASSIFY.network_loss(logits[i : i + 1], {"cls": labels[i : i + 1], CLASS_WEIGHTS: weights}) for i in range(3)
    ]
    assert result.item() == pytest.approx(sum(part.item() for part in parts) / 3)


def test_distillation_has_its_minimum_at_the_teacher_and_the_gradient_of_a_loss() -> None:
    """At high temperature its gradient is that of half the squared difference of centred logits, times 1 / classes
    (Hinton et al., eq. 4); the factor T² makes it independent of T."""
    teacher = torch.tensor([[1.0, -2, 0.5]])
    equal = teacher.clone().requires_grad_()
    CLASSIFY.distillation_loss(equal, teacher).backward()
    assert equal.grad is not None and equal.grad.abs().max() < 1e-6
    small, other = 1e-2 * teacher, torch.zeros(1, 3, requires_grad=True)
    CLASSIFY.distillation_loss(other, small).backward()
    assert other.grad is not None
    torch.testing.assert_close(other.grad, -(small - small.mean()) / 3, rtol=1e-2, atol=1e-6)
    soft = (teacher / TEMPERATURE).softmax(1)
    value = -(TEMPERATURE**2) * (soft * F.log_softmax(torch.zeros(1, 3), 1)).sum()
    assert CLASSIFY.distillation_loss(torch.zeros(1, 3), teacher) == pytest.approx(value.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("output", "classes"),
    [
        (torch.zeros(2, 5), 5),
        (torch.zeros(3, 5), None),  # not one row per image
        (torch.zeros(2, 5, 1), None),
        (np.zeros((2, 5)), None),
        ((torch.zeros(2, 5),), None),
    ],
)
def test_logits_tell_the_number_of_classes(output: object, classes: int | None) -> None:
    assert CLASSIFY.output_classes(output, 2) == classes


def test_confidence_is_compared_for_the_class_that_was_first() -> None:
    before = np.array([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]])
    after = np.array([[0.6, 0.4], [0.6, 0.4], [0.5, 0.5]])
    assert CLASSIFY.confidence_shift(before, after) == pytest.approx(0.1)  # the median of 0.1, 0.4 and 0
    logits = np.log(before) + 7  # softmax ignores a constant
    assert CLASSIFY.confidence_shift(logits, after) == pytest.approx(0.1)


def test_scores_pass_unchanged_and_all_of_them_must_be_numbers() -> None:
    scores = np.array([[1.0, np.nan]])
    assert CLASSIFY.decode(scores) is scores and np.isnan(CLASSIFY.values(scores)[0]).any()
    assert CLASSIFY.output_kind(end_to_end=False, postprocessed=True) == "scores"


def test_two_models_agree_on_an_image_if_the_class_is_the_same() -> None:
    before = np.array([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]])
    after = np.array([[0.6, 0.4], [0.6, 0.4], [0.4, 0.6]])
    assert CLASSIFY.agreements(before, after, 0.25) == pytest.approx([1, 0.6, 0.9])
    assert CLASSIFY.agreements(before[:1], np.array([[0.0, np.nan]]), 0.25) == [0]
