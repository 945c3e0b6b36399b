"""Detect and the heads derived from it (Segment, Pose, OBB): what of them must keep its channels, their deployed form,
and what a detector's raw output means."""

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

CONFIDENCE = 0.001  # what validation keeps; Ultralytics' own `val` uses the same three numbers
IOU = 0.7
MOST = 300  # detections an image
MOST_CANDIDATES = 30_000  # boxes that enter suppression

TRAINING_ONLY = "branch used in training only, not part of the deployed network: nothing to gain"
LAST = "last layer of a head's branch: its channels are the answer"


class Decode(nn.Module):
    """Head outputs to boxes and scores. A module of its own, so that exported graphs show where it begins.

    It has no weights: DFL's fixed projection and the geometry stay those of the Detect module it belongs to.
    """

    def __init__(self, head: Any, postprocess: bool) -> None:
        super().__init__()
        self.selects = postprocess  # an end-to-end head selects its detections here
        self.owner = [head]  # in a list: the head holds this module and must not be registered inside it

    def forward(self, raw: dict[str, Any]) -> Tensor:
        """What a branch of the head gives ({boxes, scores, feats, …}, logits) to the raw output of `deployed`."""
        head = self.owner[0]
        out = head._inference(raw)
        if not head.end2end:
            return out
        rows = out.permute(0, 2, 1)
        return head.postprocess(rows) if self.selects else rows


def show_unseen(net: Any) -> Any:
    """Let what the head runs in training mode only run in eval mode too, in place; returns `net`.

    A dependency graph is traced in eval mode. It would prune layers without seeing that the keypoints' sigma and the
    masks' semantic branch (YOLO26) read them too.
    """
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
    """{module name: why} of layers of the head that must keep their channels."""
    head, prefix = net.model[-1], f"model.{len(net.model) - 1}"
    kept: dict[str, str] = {}
    for branch, level, layers in _branches(head):
        at = f"{prefix}.{branch}.{level}"
        if branch.endswith("_sigma") or (head.end2end and not branch.startswith("one2one_")):
            kept |= {
                f"{at}.{inner}".removesuffix("."): TRAINING_ONLY
                for inner, layer in layers.named_modules()
                if _is_pointwise(layer)
            }
        if (last := _last(layers)) is not None:
            kept[at + last] = LAST
    if isinstance(getattr(head.dfl, "conv", None), nn.Conv2d):
        kept[f"{prefix}.dfl.conv"] = "a fixed projection, not a weight"
    if hasattr(head, "proto"):
        kept[f"{prefix}.proto.cv3.conv"] = LAST
        semantic = getattr(head.proto, "semseg", None) or nn.Sequential()
        at = f"{prefix}.proto.semseg"
        kept |= {f"{at}.{name}": TRAINING_ONLY for name, layer in semantic.named_modules() if _is_pointwise(layer)}
    return kept


def _branches(head: Any) -> Iterator[tuple[str, int, nn.Module]]:
    """The head's branches: (attribute, level of the pyramid, layers)."""
    for name, levels in head.named_children():
        if isinstance(levels, nn.ModuleList):
            for level, layers in enumerate(levels):
                yield name, level, layers


def _last(layers: nn.Module) -> str | None:
    """Path, inside a branch, of the bare convolution that gives its answer; None where a further branch gives it."""
    if isinstance(layers, nn.Conv2d):
        return ""
    return f".{len(layers) - 1}" if isinstance(layers, nn.Sequential) and isinstance(layers[-1], nn.Conv2d) else None


def _is_pointwise(layer: nn.Module) -> bool:
    """Not depthwise: a depthwise layer has no channels of its own, it follows its input."""
    return isinstance(layer, nn.Conv2d) and layer.groups == 1


def deployed(net: Any, example: Tensor, postprocess: bool = True) -> nn.Module:
    """A fused copy of a DetectionModel in eval mode that maps (b, c, s, s) to one tensor.

    End-to-end heads (YOLO26) give (b, 300, 6) x1, y1, x2, y2, score, class in descending score; others give
    (b, 4 + classes, anchors) with centre x, y, width, height. Coordinates are input pixels. Mask coefficients,
    keypoints and angles follow in the same rows; networks that segment give mask prototypes as a second tensor.
    End-to-end heads without that step return (b, anchors, 4 + classes): all rows, not picked yet.
    """
    copied = copy.deepcopy(net).float().eval()
    hide_unseen(copied)
    head = copied.model[-1]
    copied.fuse(verbose=False)
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    head.export, head.dynamic, head.format = True, False, None
    head.decode = Decode(head, postprocess)
    kind: Any = type(head)
    head.__class__ = _classes(kind)[1]
    with torch.no_grad():
        copied(example)  # makes the anchors of this input size, so that export sees constants
    return copied


@contextmanager
def deployed_branch(net: Any) -> Iterator[None]:
    """While it lasts, `net` gives the raw outputs of the branch that is deployed, {boxes, scores, feats}: in training
    and eval mode, without the branch that only trains, and with gradients into the backbone."""
    head = net.model[-1]
    before: Any = type(head)
    head.__class__ = _classes(before)[0]
    try:
        yield
    finally:
        head.__class__ = before


@cache
def _classes(kind: type) -> tuple[type, type]:
    """A head without the branch that is not deployed: its raw outputs, and with its decoding behind a module."""
    from ultralytics.nn.modules.block import Proto26

    class Branch(kind):  # type: ignore[misc, valid-type]
        def forward(self, x: list[Tensor]) -> Any:
            return self.forward_head(x, **(self.one2one if self.end2end else self.one2many))

    class Deployed(Branch):
        decode: Any  # a module in this class

        def forward(self, x: list[Tensor]) -> Any:
            found = self.decode(super().forward(x))
            if not hasattr(self, "proto"):
                return found
            return found, self.proto(x if isinstance(self.proto, Proto26) else x[0])

    return Branch, Deployed


def quantization_exclusions(net: Any) -> dict[str, str]:
    """Modules of a deployed net that INT8 spoils: the last, unbounded step of each branch, and the decoding."""
    head, name = net.model[-1], f"model.{len(net.model) - 1}"
    kept = {}
    for branch, level, layers in _branches(head):
        last = _last(layers)
        deployed = branch.startswith("one2one_") == bool(head.end2end) and not branch.endswith("_sigma")
        if last is not None and deployed:
            kept[f"{name}.{branch}.{level}{last}"] = (
                f"last layer of the {_gives(branch)} at level {level}: its error goes straight into the answer"
            )
    if head.reg_max > 1:
        kept[f"{name}.dfl"] = "expectation over distance bins, a softmax that needs fine steps"
    kept[f"{name}.decode"] = "box geometry and the sigmoid of scores: pixels and probabilities do not share a scale"
    return kept


def _gives(branch: str) -> str:
    return {"cv2": "box distances", "cv3": "class logits"}.get(branch.removeprefix("one2one_"), "task's own numbers")


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
