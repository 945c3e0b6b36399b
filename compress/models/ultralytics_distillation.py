"""How far a detector's raw answers are from those of its teacher: a loss to train with beside the labels.

Labels say where the objects are; a teacher's answers also say, at every anchor, how sure one can be and which classes
look alike, so a short training learns more from each image. Knowledge distillation: Hinton et al., arXiv:1503.02531;
on dense detectors' logits and boxes: Zheng et al., "Localization Distillation", arXiv:2102.12252.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F


def distance(criterion: Any, student: dict[str, Any], teacher: dict[str, Any]) -> Tensor:
    """Cross-entropy to the teacher's scores at every anchor, and overlap with its boxes weighted by its confidence:
    scalar, normalised and scaled as the criterion does with its assigned labels.

    Args:
        criterion: Ultralytics' v8DetectionLoss.
        student, teacher: what one branch of a Detect head gives, float32.
    """
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
