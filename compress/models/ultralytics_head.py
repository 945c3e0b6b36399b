"""Ultralytics' Detect head and those derived from it (Segment, Pose, OBB): layers that must keep their channels, the
deployed form, and the decoding of a detector's raw output."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.tasks.mean_ap import Detections
from compress.tasks.outputs import Outputs, first

CONFIDENCE = 0.001  # lowest score in validation; Ultralytics' own `val` uses the same values for this and the next two
IOU = 0.7
MOST = 300  # detections per image
MOST_CANDIDATES = 30_000  # boxes that enter non-maximum suppression

TRAINING_ONLY = "branch used only in training: pruning it does not reduce the deployed network"
LAST = "last layer of a head's branch: its channels are the output"
FURTHER = ("nm", "nk", "ne")  # attributes of heads: numbers of mask coefficients, keypoint values, angles of a box
CONTENTS = {"cv2": "box distances", "cv3": "class logits"}  # of the branches of a head


class Decode(nn.Module):
    """Decodes head outputs to boxes and scores. A separate module, so that exported graphs show where it begins. The
    DFL projection and the anchors remain in the head that it belongs to."""

    def __init__(self, head: Any, postprocess: bool) -> None:
        super().__init__()
        self.selects = postprocess  # an end-to-end head selects its detections here
        self.owner = [head]  # in a list, so that the head, which holds this module, is not registered inside it

    def forward(self, raw: dict[str, Any]) -> Tensor:
        """Maps the raw outputs of a branch ({boxes, scores, feats, …}, logits) to the output of `deployed`."""
        head = self.owner[0]
        out = head._inference(raw)
        if not head.end2end:
            return out
        rows = out.permute(0, 2, 1)
        if not self.selects:
            return rows
        further = next((getattr(head, name) for name in FURTHER if hasattr(head, name)), 0)
        return _selected(rows, head.nc, further, head.max_det) if further else head.postprocess(rows)


def _selected(rows: Tensor, classes: int, further: int, most: int) -> Tensor:
    """`capabilities.TopK` in torch, for rows with further values, such as mask coefficients. The head's own version
    exports one Slice for each part of a row, from which OpenVINO 2026.4 computes a wrong shape; this one a Split."""
    boxes, scores, others = rows.split([4, classes, further], 2)
    best = scores.amax(2).topk(min(most, int(rows.shape[1]))).indices
    pairs, order = _rows_at(scores, best).flatten(1).topk(best.shape[1])
    anchor = best.gather(1, order // classes)
    labels = (order % classes).to(rows.dtype)
    return torch.cat([_rows_at(boxes, anchor), pairs[..., None], labels[..., None], _rows_at(others, anchor)], 2)


def _rows_at(rows: Tensor, index: Tensor) -> Tensor:
    """The rows, of (b, n, values), at `index`, (b, k)."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[2]))


def show_unseen(net: Any) -> Any:
    """Makes the training-only layers of the head run in eval mode too, in place; returns `net`. The dependency graph is
    traced in eval mode and would not contain the keypoint sigma and the semantic branch of masks (YOLO26)."""
    head = net.model[-1]
    for branch in ("cv4", "one2one_cv4"):
        readers = getattr(head, f"{branch}_sigma", None) or ()
        for layers, reader in zip(getattr(head, branch, None) or (), readers, strict=False):
            layers.register_forward_hook(partial(_also_run, reader))
    if (reader := getattr(getattr(head, "proto", None), "semseg", None)) is not None:
        head.proto.feat_fuse.register_forward_pre_hook(partial(_also_run, reader))
    return net


def _also_run(reader: nn.Module, layer: nn.Module, inputs: Any, output: Any = None) -> None:
    if not layer.training:
        reader(inputs[0] if output is None else output)


def hide_unseen(net: nn.Module) -> None:
    """Undoes `show_unseen`."""
    for module in net.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(hook, partial) and hook.func is _also_run:
                    del hooks[key]


def protected(net: Any) -> dict[str, str]:
    """{module name: reason} for layers of the head that must keep their channels."""
    head, prefix = net.model[-1], f"model.{len(net.model) - 1}"
    reasons: dict[str, str] = {}
    for branch, level, layers in _branches(head):
        path = f"{prefix}.{branch}.{level}"
        if branch.endswith("_sigma") or (head.end2end and not branch.startswith("one2one_")):
            reasons |= _training_only(path, layers)
        if (last := _last(layers)) is not None:
            reasons[path + last] = LAST
    if isinstance(getattr(head.dfl, "conv", None), nn.Conv2d):
        reasons[f"{prefix}.dfl.conv"] = "a fixed projection, not a weight"
    if hasattr(head, "proto"):
        reasons[f"{prefix}.proto.cv3.conv"] = LAST
        if (semantic := getattr(head.proto, "semseg", None)) is not None:
            reasons |= _training_only(f"{prefix}.proto.semseg", semantic)
    return reasons


def _training_only(path: str, layers: nn.Module) -> dict[str, str]:
    """The convolutions in `layers`, except grouped ones: the channels of a depthwise layer follow its input."""
    return {
        f"{path}.{name}".removesuffix("."): TRAINING_ONLY
        for name, layer in layers.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.groups == 1
    }


def _branches(head: Any) -> Iterator[tuple[str, int, nn.Module]]:
    """The head's branches: (attribute name, pyramid level, layers)."""
    for name, levels in head.named_children():
        if isinstance(levels, nn.ModuleList):
            for level, layers in enumerate(levels):
                yield name, level, layers


def _last(layers: nn.Module) -> str | None:
    """Path, inside a branch, of the plain convolution that computes its output; None if another branch does."""
    if isinstance(layers, nn.Conv2d):
        return ""
    return f".{len(layers) - 1}" if isinstance(layers, nn.Sequential) and isinstance(layers[-1], nn.Conv2d) else None


def deployed(net: Any, example: Tensor, postprocess: bool = True) -> nn.Module:
    """A fused eval-mode copy of a DetectionModel that maps (b, c, s, s) to one tensor.

    End-to-end heads (YOLO26) return (b, 300, 6) with x1, y1, x2, y2, score, class, sorted by descending score; without
    `postprocess` they return all rows, (b, anchors, 4 + classes). Other heads return (b, 4 + classes, anchors) with
    centre x, y, width, height. Coordinates are input pixels. Mask coefficients, keypoints and angles follow in the same
    rows. Segmentation networks return mask prototypes as a second tensor.
    """
    copied = copy.deepcopy(net).float().eval()
    hide_unseen(copied)
    head = copied.model[-1]
    copied.fuse(verbose=False)
    copied.requires_grad_(False)
    head.export, head.dynamic, head.format = True, False, None
    head.decode = Decode(head, postprocess)
    kind: Any = type(head)
    head.__class__ = _classes(kind)[1]
    with torch.no_grad():
        copied(example)  # computes the anchors for this input size, so that they are exported as constants
    return copied


@contextmanager
def deployed_branch(net: Any) -> Iterator[None]:
    """Context in which `net` returns the raw outputs of the deployed branch only, {boxes, scores, feats}, in training
    and eval mode, with gradients into the backbone."""
    head = net.model[-1]
    original: Any = type(head)
    head.__class__ = _classes(original)[0]
    try:
        yield
    finally:
        head.__class__ = original


@cache
def _classes(kind: type) -> tuple[type, type]:
    """Two subclasses of a head without its training-only branch: with raw outputs, and with decoded ones."""
    from ultralytics.nn.modules.block import Proto26

    class Branch(kind):  # type: ignore[misc, valid-type]
        def forward(self, x: list[Tensor]) -> Any:
            return self.forward_head(x, **(self.one2one if self.end2end else self.one2many))

    class Deployed(Branch):
        decode: Any  # a module in this class

        def forward(self, x: list[Tensor]) -> Any:
            decoded = self.decode(super().forward(x))
            if not hasattr(self, "proto"):
                return decoded
            return decoded, self.proto(x if isinstance(self.proto, Proto26) else x[0])

    return Branch, Deployed


def quantization_exclusions(net: Any) -> dict[str, str]:
    """{module: reason} for what INT8 degrades once deployed: the last, unbounded layer of a branch, and decoding."""
    head, name = net.model[-1], f"model.{len(net.model) - 1}"
    reasons = {}
    for branch, level, layers in _branches(head):
        last = _last(layers)
        deployed = branch.startswith("one2one_") == bool(head.end2end) and not branch.endswith("_sigma")
        if last is not None and deployed:
            content = CONTENTS.get(branch.removeprefix("one2one_"), "task's own values")
            why = f"last layer of the {content} at level {level}: its error passes directly into the output"
            reasons[f"{name}.{branch}.{level}{last}"] = why
    if head.reg_max > 1:
        reasons[f"{name}.dfl"] = "expectation over distance bins: its softmax needs a fine quantization step"
    reasons[f"{name}.decode"] = "box geometry and the sigmoid of scores: pixels and probabilities differ in scale"
    return reasons


def decode(outputs: Outputs, end_to_end: bool) -> list[Detections]:
    """Decodes raw outputs (b, …) of `deployed` to detections above CONFIDENCE, at most MOST per image."""
    decode_image = _select if end_to_end else _suppress
    return [decode_image(image) for image in torch.from_numpy(np.ascontiguousarray(first(outputs), dtype=np.float32))]


def _select(rows: Tensor) -> Detections:
    rows = rows[rows[:, 4] > CONFIDENCE][:MOST]
    return _sorted(rows[:, :4], rows[:, 4], rows[:, 5].round())


def _suppress(columns: Tensor) -> Detections:
    """Non-maximum suppression per class. A box may have several classes, as in Ultralytics' validation."""
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
