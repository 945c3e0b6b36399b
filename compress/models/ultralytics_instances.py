"""Instance segmentation, keypoint and oriented box networks of the Ultralytics package, and the decoding of their raw
outputs as in the package's validation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from compress.models import ultralytics_head as head
from compress.models.ultralytics_model import UltralyticsDetector
from compress.tasks import Outputs
from compress.tasks.obb import RotatedDetections, corners
from compress.tasks.outputs import arrays
from compress.tasks.pose import KeypointDetections
from compress.tasks.segment import STRIDE, MaskDetections, encoded


class UltralyticsSegmenter(UltralyticsDetector):
    """A model for networks with a Segment head."""

    def decode(self, outputs: Outputs) -> list[MaskDetections]:
        """Decodes rows with mask coefficients and prototypes (b, m, h, w), see `ultralytics_head.deployed`."""
        rows, prototypes = arrays(outputs)
        pairs = zip(self._rows(rows), torch.from_numpy(np.asarray(prototypes, np.float32)), strict=True)
        return [_masks(image, prototype) for image, prototype in pairs]


class UltralyticsPose(UltralyticsDetector):
    """A model for networks with a Pose head."""

    def decode(self, outputs: Outputs) -> list[KeypointDetections]:
        """Decodes rows with keypoints, see `ultralytics_head.deployed`."""
        shape = tuple(self.net.model[-1].kpt_shape)
        return [
            KeypointDetections(*_fields(image), image[:, 6:].reshape(-1, *shape).numpy())
            for image in self._rows(outputs)
        ]

    def output_signature(self) -> tuple[object, ...]:
        return *super().output_signature(), tuple(self.net.model[-1].kpt_shape)


class UltralyticsOBB(UltralyticsDetector):
    """A model for networks with an OBB head."""

    def decode(self, outputs: Outputs) -> list[RotatedDetections]:
        """Decodes rows with angles, see `ultralytics_head.deployed`."""
        decoded = []
        for image in self._images(outputs):
            rows = head.select(image) if self.net.end2end else _suppress_rotated(image, len(self.classes))
            turned = torch.cat((rows[:, :4], rows[:, 6:7]), 1).numpy()
            points = corners(turned)
            boxes = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
            decoded.append(RotatedDetections(boxes.astype(np.float32), *_fields(rows)[1:], turned))
        return decoded


def _fields(rows: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found = head.detections(rows)
    return found.boxes, found.scores, found.classes


def _masks(rows: Tensor, prototypes: Tensor) -> MaskDetections:
    from ultralytics.utils.ops import process_mask

    height, width = prototypes.shape[1:]
    masks = process_mask(prototypes, rows[:, 6:], rows[:, :4], (STRIDE * height, STRIDE * width))
    return MaskDetections(*_fields(rows), encoded(masks.numpy()))


def _suppress_rotated(columns: Tensor, classes: int) -> Tensor:
    """As `ultralytics_head.suppress`, with the package's suppression by probabilistic IoU."""
    from ultralytics.utils.metrics import batch_probiou
    from ultralytics.utils.nms import TorchNMS

    anchor, cls, score = head.candidates(columns, classes)
    box, angle = columns[:4].T[anchor], columns[4 + classes :].T[anchor]
    apart = cls[:, None] * head.APART  # boxes of different classes do not overlap
    turned = torch.cat((box[:, :2] + apart, box[:, 2:], angle), 1)
    keep = TorchNMS.fast_nms(turned, score, head.IOU, iou_func=batch_probiou)[: head.MOST]
    return torch.cat((box[keep], score[keep, None], cls[keep, None].to(score.dtype), angle[keep]), 1)
