"""How far a detector's raw answers are from those of its teacher: a loss to train with beside the labels.

Labels say where the objects are; a teacher's answers also say, at every anchor, how sure one can be and which classes
look alike, so a short training learns more from each image. Knowledge distillation: Hinton et al., arXiv:1503.02531;
on dense detectors' logits and boxes: Zheng et al., "Localization Distillation", arXiv:2102.12252.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F


def distance(criterion: Any, student: Any, teacher: Any) -> Tensor:
    """Distance of outputs, scalar, on the scale of the criterion's own loss.

    Args:
        criterion: Ultralytics' v8DetectionLoss, or its E2ELoss, whose two branches are weighted as it weights them.
        student, teacher: what a DetectionModel gives in training mode or, behind boxes, in eval mode; float32.
    """
    student, teacher = (side[1] if isinstance(side, tuple) else side for side in (student, teacher))
    if "one2many" in student:
        return criterion.o2m * _branch(criterion.one2many, student["one2many"], teacher["one2many"]) + (
            criterion.o2o * _branch(criterion.one2one, student["one2one"], teacher["one2one"])
        )
    return _branch(criterion, student, teacher)


def _branch(criterion: Any, student: dict[str, Any], teacher: dict[str, Any]) -> Tensor:
    """Cross-entropy to the teacher's scores at every anchor, and overlap with its boxes weighted by its confidence:
    normalised and scaled as the criterion does with its assigned labels."""
    from ultralytics.utils.metrics import bbox_iou
    from ultralytics.utils.tal import make_anchors

    soft = teacher["scores"].sigmoid()  # (b, classes, anchors)
    confidence = soft.amax(1)  # (b, anchors)
    total = confidence.sum().clamp(min=1)
    scores = F.binary_cross_entropy_with_logits(student["scores"], soft, reduction="sum") / total

    anchors, _ = make_anchors(student["feats"], criterion.stride, 0.5)
    ours, theirs = (criterion.bbox_decode(anchors, side["boxes"].permute(0, 2, 1)) for side in (student, teacher))
    overlap = bbox_iou(ours, theirs, xywh=False, CIoU=True).squeeze(-1)  # (b, anchors)
    boxes = ((1 - overlap) * confidence).sum() / total
    gains = criterion.hyp
    return (gains.cls * scores + gains.box * boxes) * len(soft)
