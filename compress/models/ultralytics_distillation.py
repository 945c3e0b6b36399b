"""Distillation loss between the raw outputs of a detector and those of its teacher. Knowledge distillation: Hinton et
al., arXiv:1503.02531; on the logits and boxes of dense detectors: Zheng et al., "Localization Distillation",
arXiv:2102.12252."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.tasks.segment import STRIDE

TINY = 1e-7
THINNEST = 0.1  # least side of a turned box, in units of the stride
MASKS = 32  # anchors per image whose masks are compared: those of which the teacher is most confident


def distance(criterion: Any, student: dict[str, Any], teacher: dict[str, Any]) -> Tensor:
    """Cross-entropy with the teacher's scores at every anchor, plus the distance from its boxes and from what else it
    predicts, weighted by its confidence. Scalar, normalised and scaled as `criterion` (Ultralytics' v8DetectionLoss or
    a subclass) does with its assigned labels. `student` and `teacher`: raw outputs of one branch of a Detect head or
    one derived from it, float32: {boxes, scores, feats, …}.

    The distance of boxes is the CIoU loss, that of turned boxes one minus their probabilistic IoU. Masks are compared
    by cross-entropy inside the teacher's box, and keypoints by their similarity (OKS) at the scale of that box.
    """
    from ultralytics.utils.tal import make_anchors

    soft = teacher["scores"].sigmoid()  # (b, classes, anchors)
    confidence = soft.amax(1)  # (b, anchors)
    total = confidence.sum().clamp(min=1)
    scores = F.binary_cross_entropy_with_logits(student["scores"], soft, reduction="sum") / total

    anchors, strides = make_anchors(student["feats"], criterion.stride, 0.5)
    angles = [(raw["angle"].permute(0, 2, 1),) if "angle" in raw else () for raw in (student, teacher)]
    own, target = (
        criterion.bbox_decode(anchors, raw["boxes"].permute(0, 2, 1), *angle)
        for raw, angle in zip((student, teacher), angles)
    )
    boxes_are_turned = bool(angles[0])
    overlap = _turned_overlap(own, target) if boxes_are_turned else _overlap(own, target)  # (b, anchors)
    boxes = ((1 - overlap) * confidence).sum() / total
    gains = criterion.hyp
    value = gains.cls * scores + gains.box * boxes
    if "mask_coefficient" in student:
        value = value + gains.box * _masks(student, teacher, target * strides, confidence)
    if "kpts" in student:
        value = value + _keypoints(criterion, student, teacher, anchors, target, confidence / total)
    return value * len(soft)


def _overlap(own: Tensor, target: Tensor) -> Tensor:
    from ultralytics.utils.metrics import bbox_iou

    return bbox_iou(own, target, xywh=False, CIoU=True).squeeze(-1)


def _turned_overlap(own: Tensor, target: Tensor) -> Tensor:
    """Probabilistic IoU (b, anchors) of turned boxes (b, anchors, 5), see `compress.tasks.obb.probiou`.

    Unlike the package's loss, which sees assigned anchors only, this is computed at all anchors. Boxes of some have no
    area, where the package's form has no finite gradient. Here sides have a lower limit, and the determinants of the
    covariances are computed from them, without cancellation."""
    (x1, y1, a1, b1, c1, area1), (x2, y2, a2, b2, c2, area2) = (_gaussian(boxes) for boxes in (own, target))
    dx, dy, a, b, c = x1 - x2, y1 - y2, a1 + a2, b1 + b2, c1 + c2
    determinant = (a * b - c**2).clamp(min=TINY)
    distance = (a * dy**2 + b * dx**2 - 2 * c * dx * dy) / (4 * determinant)
    distance = distance + 0.5 * torch.log(determinant * 36 / (area1 * area2))  # 4 sqrt(det1 det2) = area1 area2 / 36
    return 1 - (1 - torch.exp(-distance.clamp(TINY, 100)) + TINY).sqrt()


def _gaussian(boxes: Tensor) -> tuple[Tensor, ...]:
    """Centre x, y, covariance a, b, c of a box, and its area."""
    x, y, width, height, angle = boxes.unbind(-1)
    width, height = width.clamp(min=THINNEST), height.clamp(min=THINNEST)
    u, v, cos, sin = width**2 / 12, height**2 / 12, angle.cos(), angle.sin()
    return x, y, u * cos**2 + v * sin**2, u * sin**2 + v * cos**2, (u - v) * cos * sin, width * height


def _masks(student: dict[str, Any], teacher: dict[str, Any], boxes: Tensor, confidence: Tensor) -> Tensor:
    """Mean cross-entropy of mask logits with the teacher's masks, over the pixels in its boxes (b, anchors, 4)."""
    from ultralytics.utils.ops import crop_mask

    weight, best = confidence.topk(min(MASKS, confidence.shape[1]), dim=1)  # (b, k)
    own, soft = (_mask_logits(raw, best) for raw in (student, teacher))  # (b, k, h, w)
    chosen = boxes.gather(1, best[..., None].expand(-1, -1, 4)) / STRIDE
    loss = F.binary_cross_entropy_with_logits(own, soft.sigmoid(), reduction="none").flatten(0, 1)
    inside = crop_mask(torch.ones_like(loss), chosen.flatten(0, 1))
    mean = (loss * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
    return (mean * weight.flatten()).sum() / weight.sum().clamp(min=1)


def _mask_logits(raw: dict[str, Any], anchors: Tensor) -> Tensor:
    prototypes = raw["proto"][0] if isinstance(raw["proto"], tuple) else raw["proto"]  # (b, m, h, w)
    coefficients = raw["mask_coefficient"]  # (b, m, anchors)
    chosen = coefficients.gather(2, anchors[:, None].expand(-1, coefficients.shape[1], -1))
    return torch.einsum("bmk,bmhw->bkhw", chosen, prototypes)


def _keypoints(
    criterion: Any, student: dict[str, Any], teacher: dict[str, Any], anchors: Tensor, boxes: Tensor, weight: Tensor
) -> Tensor:
    """One minus OKS of the keypoints, and the cross-entropy of their visibility, each with its gain. `boxes` (b,
    anchors, 4) of the teacher in units of the stride, `weight` (b, anchors)."""
    shape = (*weight.shape, *criterion.kpt_shape)
    own, target = (
        criterion.kpts_decode(anchors, raw["kpts"].permute(0, 2, 1).reshape(shape)) for raw in (student, teacher)
    )
    area = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)[..., None]
    squares = (own[..., :2] - target[..., :2]).pow(2).sum(-1)  # (b, anchors, k)
    near = torch.exp(-squares / (2 * (2 * criterion.keypoint_loss.sigmas).pow(2) * (area + 1e-9)))
    value = criterion.hyp.pose * ((1 - near).mean(-1) * weight).sum()
    if shape[-1] == 3:
        visible = F.binary_cross_entropy_with_logits(own[..., 2], target[..., 2].sigmoid(), reduction="none")
        value = value + criterion.hyp.kobj * (visible.mean(-1) * weight).sum()
    return value
