"""Instance segmentation, keypoint and oriented box networks of the Ultralytics package, and the decoding of their raw
outputs as in the package's validation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.models import ultralytics_head as head
from compress.models.ultralytics_model import UltralyticsDetector
from compress.tasks import Outputs
from compress.tasks.obb import RotatedDetections, corners
from compress.tasks.outputs import arrays, first
from compress.tasks.pose import KeypointDetections
from compress.tasks.segment import STRIDE, MaskDetections, encoded


class UltralyticsSegmenter(UltralyticsDetector):
    """A model for networks with a Segment head."""

    def decode(self, outputs: Outputs) -> list[MaskDetections]:
        return masks(outputs, bool(self.net.end2end), len(self.classes))


class UltralyticsPose(UltralyticsDetector):
    """A model for networks with a Pose head."""

    def decode(self, outputs: Outputs) -> list[KeypointDetections]:
        return keypoints(outputs, bool(self.net.end2end), len(self.classes), tuple(self.net.model[-1].kpt_shape))

    def output_signature(self) -> tuple[object, ...]:
        return *super().output_signature(), tuple(self.net.model[-1].kpt_shape)


class UltralyticsOBB(UltralyticsDetector):
    """A model for networks with an OBB head."""

    def decode(self, outputs: Outputs) -> list[RotatedDetections]:
        return turned_boxes(outputs, bool(self.net.end2end), len(self.classes))


def masks(outputs: Outputs, end_to_end: bool, classes: int) -> list[MaskDetections]:
    """Decodes rows with mask coefficients and prototypes (b, m, h, w), see `ultralytics_head.deployed`."""
    from ultralytics.utils.ops import process_mask

    rows, prototypes = arrays(outputs)
    decoded = []
    for image, prototype in zip(_rows(rows, end_to_end, classes), _tensor(prototypes), strict=True):
        height, width = prototype.shape[1:]
        own = process_mask(prototype, image[:, 6:], image[:, :4], (STRIDE * height, STRIDE * width))
        decoded.append(MaskDetections(*_fields(image), encoded(own.numpy())))
    return decoded


def keypoints(outputs: Outputs, end_to_end: bool, classes: int, shape: tuple[int, ...]) -> list[KeypointDetections]:
    """Decodes rows with keypoints of `shape`, their number and the numbers of each."""
    return [
        KeypointDetections(*_fields(image), image[:, 6:].reshape(-1, *shape).numpy())
        for image in _rows(first(outputs), end_to_end, classes)
    ]


def turned_boxes(outputs: Outputs, end_to_end: bool, classes: int) -> list[RotatedDetections]:
    """Decodes rows whose boxes are centre x, y, width, height, with angles."""
    decoded = []
    for image in _tensor(first(outputs)):
        rows = head.select(image) if end_to_end else _suppress_turned(image, classes)
        turned = torch.cat((rows[:, :4], rows[:, 6:7]), 1).numpy()
        points = corners(turned)
        boxes = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1).astype(np.float32)
        decoded.append(RotatedDetections(boxes, *_fields(rows)[1:], turned))
    return decoded


# {task: decoder of raw outputs; keypoints also need `shape`}
DECODERS: dict[str, Callable[..., Any]] = {"segment": masks, "pose": keypoints, "obb": turned_boxes}


def _tensor(outputs: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(outputs, dtype=np.float32))


def _rows(outputs: np.ndarray, end_to_end: bool, classes: int) -> list[Tensor]:
    return [head.select(image) if end_to_end else head.suppress(image, classes) for image in _tensor(outputs)]


def _fields(rows: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found = head.detections(rows)
    return found.boxes, found.scores, found.classes


def _suppress_turned(columns: Tensor, classes: int) -> Tensor:
    """As `ultralytics_head.suppress`, with the package's suppression by probabilistic IoU."""
    from ultralytics.utils.metrics import batch_probiou
    from ultralytics.utils.nms import TorchNMS

    anchor, cls, score = head.candidates(columns, classes)
    box, angle = columns[:4].T[anchor], columns[4 + classes :].T[anchor]
    apart = cls[:, None] * head.APART  # boxes of different classes do not overlap
    turned = torch.cat((box[:, :2] + apart, box[:, 2:], angle), 1)
    keep = TorchNMS.fast_nms(turned, score, head.IOU, iou_func=batch_probiou)[: head.MOST]
    return torch.cat((box[keep], score[keep, None], cls[keep, None].to(score.dtype), angle[keep]), 1)
