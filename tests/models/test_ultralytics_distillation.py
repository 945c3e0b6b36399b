"""What a detector learns from its teacher."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("ultralytics")

from compress.capabilities import Teacher
from compress.models import ultralytics_distillation
from compress.tasks import obb
from tests.models.detectors import batch, make


@pytest.mark.parametrize("name", ["yolo26n", "yolov8n"])
def test_a_network_equal_to_its_teacher_has_nothing_to_learn_from_it(name: str) -> None:
    model = make(name)
    data = batch()
    teacher = Teacher(copy.deepcopy(model.net).eval(), weight=1.0)

    def pull(net: nn.Module) -> tuple[float, float]:
        """What the teacher adds to the loss, and the size of the gradient of that."""
        extra = model.loss(net, data, teacher).sum() - model.loss(net, data, Teacher(teacher.net, weight=0.0)).sum()
        grads = torch.autograd.grad(extra, [p for p in net.parameters() if p.requires_grad], allow_unused=True)
        return extra.item(), sum(float(g.norm()) for g in grads if g is not None)

    equal, still = pull(model.net.eval())
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    other, moving = pull(model.net)
    assert other > equal and moving > 100 * still


STRIDE, SIDE = 8, 2  # one level of 2 x 2 anchors, in an image of 16 px
GAINS = SimpleNamespace(cls=0.5, box=7.5)


def corners(anchors: Tensor, distances: Tensor) -> Tensor:
    """(b, anchors, 4) corners of boxes whose sides have these distances from their anchors."""
    return torch.cat([anchors - distances[..., :2], anchors + distances[..., 2:]], -1)


def raw(seed: int) -> dict[str, Any]:
    """Outputs of a head for 2 images and 3 classes; distances are positive."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "scores": 3 * torch.randn(2, 3, SIDE * SIDE, generator=generator),
        "boxes": 0.2 + torch.rand(2, 4, SIDE * SIDE, generator=generator),
        "feats": [torch.zeros(2, 1, SIDE, SIDE)],
    }


def parts(student: dict[str, Any], teacher: dict[str, Any]) -> tuple[float, float]:
    """The distance with the gain of scores alone, and with that of boxes alone."""
    result = []
    for gains in ({"cls": GAINS.cls, "box": 0}, {"cls": 0, "box": GAINS.box}):
        criterion = SimpleNamespace(stride=torch.tensor([STRIDE]), bbox_decode=corners, hyp=SimpleNamespace(**gains))
        result.append(float(ultralytics_distillation.distance(criterion, student, teacher)))
    return result[0], result[1]


def test_scores_are_a_cross_entropy_for_each_unit_of_the_teachers_confidence() -> None:
    student, teacher = raw(0), raw(1)
    own, soft = (1 / (1 + np.exp(-each["scores"].double().numpy())) for each in (student, teacher))
    entropy = -(soft * np.log(own) + (1 - soft) * np.log(1 - own)).sum()
    wanted = GAINS.cls * entropy / soft.max(axis=1).sum() * 2  # images
    assert parts(student, teacher)[0] == pytest.approx(wanted, rel=1e-5)


def test_boxes_are_weighted_by_the_teachers_confidence() -> None:
    from torchvision.ops import complete_box_iou_loss

    student, teacher = raw(0), raw(1)
    anchors = torch.tensor([[0.5, 0.5], [1.5, 0.5], [0.5, 1.5], [1.5, 1.5]])
    own, target = (corners(anchors, each["boxes"].permute(0, 2, 1)) for each in (student, teacher))
    confidence = teacher["scores"].sigmoid().amax(1)
    lost = complete_box_iou_loss(own.flatten(0, 1), target.flatten(0, 1)).view(2, -1)
    wanted = GAINS.box * float((lost * confidence).sum() / confidence.sum()) * 2
    assert parts(student, teacher)[1] == pytest.approx(wanted, rel=1e-4)


def test_a_teacher_that_sees_nothing_divides_by_no_zero() -> None:
    blind = raw(1)
    blind["scores"] = torch.full((2, 3, SIDE * SIDE), -100.0)
    scores, boxes = parts(raw(0), blind)
    assert np.isfinite(scores) and boxes == pytest.approx(0, abs=1e-6)


def test_boxes_equal_to_the_teachers_cost_nothing() -> None:
    teacher = raw(1)
    assert parts(raw(0) | {"boxes": teacher["boxes"]}, teacher)[1] == pytest.approx(0, abs=1e-5)


def test_the_overlap_of_turned_boxes_is_that_of_the_metric_and_its_gradient_finite() -> None:
    rng = np.random.default_rng(0)
    boxes = [
        np.column_stack([rng.uniform(0, 9, (50, 2)), rng.uniform(1, 9, (50, 2)), rng.uniform(-1, 3, 50)])
        for _ in range(2)
    ]
    own, target = (torch.tensor(each[None], dtype=torch.float32) for each in boxes)
    found = ultralytics_distillation._turned_overlap(own, target)[0]
    np.testing.assert_allclose(found, np.diag(obb.probiou(*boxes)), atol=1e-3)
    own[0, :3, 2:4] = torch.tensor([[0.0, 0.0], [-1.0, 50.0], [80.0, 0.0]])  # without area
    target[0, 3:6] = own[0, 3:6]  # equal
    target[0, 6:8, 2:4] = 0
    own.requires_grad_(True)
    ultralytics_distillation._turned_overlap(own, target).sum().backward()
    assert own.grad is not None and torch.isfinite(own.grad).all()
