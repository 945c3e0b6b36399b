"""The deployed form of an Ultralytics detector, and what its raw output means."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.product import Detections

CONFIDENCE = 0.001  # what validation keeps; Ultralytics' own `val` uses the same three numbers
IOU = 0.7
MOST = 300  # detections an image
MOST_CANDIDATES = 30_000  # boxes that enter suppression


class Decode(nn.Module):
    """Head outputs to boxes and scores. A module of its own, so that exported graphs show where it begins.

    It has no weights: DFL's fixed projection and the geometry stay those of the Detect module it belongs to.
    """

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.owner = [head]  # in a list: the head holds this module and must not be registered inside it

    def forward(self, boxes: Tensor, scores: Tensor, feats: list[Tensor]) -> Tensor:
        """(b, 4 * bins, anchors) and (b, classes, anchors) logits to the raw output of `deployed`."""
        head = self.owner[0]
        out = head._inference({"boxes": boxes, "scores": scores, "feats": feats})
        return head.postprocess(out.permute(0, 2, 1)) if head.end2end else out


def deployed(net: Any, example: Tensor) -> nn.Module:
    """A fused copy of a DetectionModel in eval mode that maps (b, c, s, s) to one tensor.

    End-to-end heads (YOLO26) give (b, 300, 6) x1, y1, x2, y2, score, class in descending score; others give
    (b, 4 + classes, anchors) with centre x, y, width, height. Coordinates are input pixels.
    """
    copied = copy.deepcopy(net).float().eval()
    head = copied.model[-1]
    copied.fuse(verbose=False)
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    head.export, head.dynamic, head.format = True, False, None
    head.decode = Decode(head)

    head.__class__ = _classes()[1]
    with torch.no_grad():
        copied(example)  # makes the anchors of this input size, so that export sees constants
    return copied


@contextmanager
def deployed_branch(net: Any) -> Iterator[None]:
    """While it lasts, `net` gives the raw outputs of the branch that is deployed, {boxes, scores, feats}: in training
    and eval mode, without the branch that only trains, and with gradients into the backbone."""
    head = net.model[-1]
    before, head.__class__ = head.__class__, _classes()[0]
    try:
        yield
    finally:
        head.__class__ = before


@cache
def _classes() -> tuple[type, type]:
    """Detect without the branch that is not deployed: its raw outputs, and with its decoding behind a module."""
    from ultralytics.nn.modules.head import Detect

    class Branch(Detect):
        def forward(self, x: list[Tensor]) -> Any:
            return self.forward_head(x, **(self.one2one if self.end2end else self.one2many))

    class DeployedDetect(Branch):
        decode: Any  # a module in this class

        def forward(self, x: list[Tensor]) -> Any:
            out = super().forward(x)
            return self.decode(out["boxes"], out["scores"], out["feats"])

    return Branch, DeployedDetect


def kept_float(net: Any) -> dict[str, str]:
    """Modules of a deployed net that INT8 spoils: the last, unbounded step of each branch, and the decoding."""
    head, name = net.model[-1], f"model.{len(net.model) - 1}"
    prefix = "one2one_" if head.end2end else ""
    kept = {}
    for branch, what in (("cv2", "box distances"), ("cv3", "class logits")):
        for level, layers in enumerate(getattr(head, prefix + branch)):
            kept[f"{name}.{prefix}{branch}.{level}.{len(layers) - 1}"] = (
                f"last layer of the {what} at level {level}: its error goes straight into the answer"
            )
    if head.reg_max > 1:
        kept[f"{name}.dfl"] = "expectation over distance bins, a softmax that needs fine steps"
    kept[f"{name}.decode"] = "box geometry and the sigmoid of scores: pixels and probabilities do not share a scale"
    return kept


def decode(outputs: np.ndarray, end_to_end: bool) -> list[Detections]:
    """Raw outputs (b, …) of `deployed` to detections above CONFIDENCE, at most MOST an image."""
    read = _read_end_to_end if end_to_end else _suppress
    return [read(image) for image in torch.from_numpy(np.ascontiguousarray(outputs, dtype=np.float32))]


def _read_end_to_end(rows: Tensor) -> Detections:
    rows = rows[rows[:, 4] > CONFIDENCE][:MOST]
    return _sorted(rows[:, :4], rows[:, 4], rows[:, 5].round())


def _suppress(columns: Tensor) -> Detections:
    """Non-maximum suppression per class; a box may carry several classes, as validation wants it."""
    from torchvision.ops import batched_nms

    box, scores = columns[:4].T, columns[4:].T
    anchor, cls = torch.where(scores > CONFIDENCE)
    score = scores[anchor, cls]
    if len(score) > MOST_CANDIDATES:
        score, best = score.topk(MOST_CANDIDATES)
        anchor, cls = anchor[best], cls[best]
    centre, half = box[anchor, :2], box[anchor, 2:] / 2
    corners = torch.cat((centre - half, centre + half), 1)
    keep = batched_nms(corners, score, cls, IOU)[:MOST]
    return _sorted(corners[keep], score[keep], cls[keep])


def _sorted(boxes: Tensor, scores: Tensor, classes: Tensor) -> Detections:
    order = scores.argsort(descending=True, stable=True)
    return Detections(boxes[order].numpy(), scores[order].numpy(), classes[order].numpy().astype(np.int64))
