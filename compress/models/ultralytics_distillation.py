"""Distillation loss between the raw outputs of a detector and those of its teacher. Knowledge distillation: Hinton et
al., arXiv:1503.02531; on the logits and boxes of dense detectors: Zheng et al., "Localization Distillation",
arXiv:2102.12252."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F


def distance(criterion: Any, student: dict[str, Any], teacher: dict[str, Any]) -> Tensor:
    """Cross-entropy with the teacher's scores at every anchor, plus the CIoU loss with its boxes, weighted by its
    confidence. Scalar, normalised and scaled as `criterion` (Ultralytics' v8DetectionLoss) does with its assigned
    labels. `student` and `teacher`: raw outputs of one branch of a Detect head, float32: {boxes, scores, feats}."""
    from ultralytics.utils.metrics import bbox_iou
    from ultralytics.utils.tal import make_anchors

    soft = teacher["scores"].sigmoid()  # (b, classes, anchors)
    confidence = soft.amax(1)  # (b, anchors)
    total = confidence.sum().clamp(min=1)
    scores = F.binary_cross_entropy_with_logits(student["scores"], soft, reduction="sum") / total

    anchors, _ = make_anchors(student["feats"], criterion.stride, 0.5)
    own, target = (criterion.bbox_decode(anchors, raw["boxes"].permute(0, 2, 1)) for raw in (student, teacher))
    overlap = bbox_iou(own, target, xywh=False, CIoU=True).squeeze(-1)  # (b, anchors)
    boxes = ((1 - overlap) * confidence).sum() / total
    gains = criterion.hyp
    return (gains.cls * scores + gains.box * boxes) * len(soft)
