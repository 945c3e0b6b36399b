"""Models given as an ONNX file (`model=onnx`), without a torch network: measured, quantized and exported only."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto
from torch import Tensor, nn

from compress.capabilities import TopK, example_image, tensor_digest
from compress.config import Config, ModelConfig
from compress.errors import TargetFailed, UserError, one_line
from compress.models import onnx_file, own_input, ultralytics_head, ultralytics_instances
from compress.models.onnx_file import KEY
from compress.models.ultralytics_package import require_ultralytics
from compress.targets import onnx_graph
from compress.targets.quantization_exclusions import Node, module_path
from compress.tasks import CLASSIFY, DETECT, TASKS, Outputs, Predictions, Task
from compress.tasks.pose import Pose

TORCH_ONLY = ("train", "prune", "reconstruct", "finetune")
FROM_TORCH = ("ncnn", "litert")  # targets whose converters read torch networks, not graphs
REMEDY = "use the torch model instead: model=ultralytics, timm, module or checkpoint"
LAST = "last layer before the output: its quantization error passes directly into the output"
BINS = "expectation over distance bins: its softmax needs a fine quantization step"
MAX_TEXT = 2**22  # characters of a metadata entry that is parsed as a Python literal
MOVES = {"Transpose", "Reshape", "Unsqueeze", "Squeeze"}  # operators that only rearrange values


class FileNet(nn.Module):
    """Runs the original file, without torch parameters, image by image: (b, c, s, s) to its output for b images, or a
    tuple of its outputs."""

    sha256: Tensor

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            self.session = onnx_graph.open_session(path, onnx_graph.session_options(torch.get_num_threads()))
        except TargetFailed as error:
            raise UserError(KEY, path, one_line(error)) from error
        self.input = self.session.get_inputs()[0].name
        # In the state dict, so that `OnnxModel.identity`, a hash of the tensors, depends on the file.
        digest = hashlib.sha256(path.read_bytes()).digest()
        self.register_buffer("sha256", torch.tensor(list(digest), dtype=torch.uint8))

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        computed = [self.session.run(None, {self.input: image[None]}) for image in images.numpy()]
        outputs = [torch.from_numpy(np.concatenate(each)) for each in zip(*computed, strict=True)]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def __deepcopy__(self, memo: object) -> Self:
        """Returns the object itself: sessions cannot be copied, and it is immutable."""
        return self


@dataclass(frozen=True)
class OnnxModel:
    """A model (`GivenAsGraph`, `Evaluable`) for an ONNX file of a classifier or of an Ultralytics network."""

    net: FileNet  # runs the original file; exported graphs are compared with it
    graph: ModelProto
    path: Path
    imgsz: int
    channels: int
    size_bytes: int  # of the original file and its external weights
    carried: dict[str, str]  # metadata of the original file
    classes: tuple[str, ...]
    task: Task = CLASSIFY
    postprocess: TopK | None = None
    default_stride: int = 1  # for files without this metadata entry
    # Raw outputs (b, n, 6) or (b, 4 + classes, anchors) to detections, (b, classes) unchanged.
    decode: Callable[[Outputs], Predictions] = CLASSIFY.decode
    exclusions: Callable[[ModelProto], dict[str, str]] = lambda graph: {}  # {module: reason}: layers to leave in float

    runtime: ClassVar[str] = f"onnxruntime {onnxruntime.__version__}"  # computes `net`

    @property
    def stride(self) -> int:
        own = self.carried.get("stride", "")
        return int(own) if re.fullmatch("[1-9][0-9]{0,3}", own) else self.default_stride

    def identity(self) -> str:
        return tensor_digest(self.net)

    def deployed(self, *, postprocess: bool = True) -> nn.Module:
        """The original file. `postprocess` is ignored, since only targets that convert from torch set it to False."""
        return self.net

    def metadata(self) -> dict[str, str]:
        """Metadata of the original file, updated to the fixed shapes of `graph`."""
        entries = {"task": self.task.name, "names": str(dict(enumerate(self.classes))), **self.carried}
        args = _literal(self.carried.get("args"))
        args = _updated(args, {"batch": 1, "dynamic": False}) if isinstance(args, dict) else {}
        return _updated(entries, {"batch": "1", "imgsz": str([self.imgsz, self.imgsz]), "args": str(args)})

    def quantization_exclusions(self) -> dict[str, str]:
        return self.exclusions(self.graph)

    def example_input(self, batch: int = 1) -> Tensor:
        return example_image(batch, self.channels, self.imgsz)


def _updated(entries: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`entries` with new values for the keys that it has."""
    return {key: values.get(key, value) for key, value in entries.items()}


def resolve(config: Config) -> Config:
    """Returns `config` with the file's own input size and channels. Raises UserError if a stage or target needs a torch
    network, or if `onnx_file.read` rejects the file."""
    for stage in config.stages:
        if stage in TORCH_ONLY:
            why = f"model=onnx has no torch network to {stage}, it supports only quantize and export: {REMEDY}"
            raise UserError("stages", f"[{', '.join(config.stages)}]", why)
    for target in config.targets or []:
        if target in FROM_TORCH:
            why = f"{target} converts from torch, and model=onnx has no torch network: remove it, or {REMEDY}"
            raise UserError("targets", target, why)
    file = _read(config.model)
    config = replace(config, model=replace(config.model, imgsz=file.imgsz, channels=file.channels))
    return own_input.with_task(config, file.metadata.get("task"))


def build(
    config: ModelConfig, classes: tuple[str, ...] | None, task: Task | None = None, quantized: bool = False
) -> OnnxModel:
    """Loads the file `config.path`. The task follows from its metadata and output shape, the classes from its metadata,
    else they are `classes`. `quantized`: see `onnx_file.read`. Raises UserError if that rejects the file, or its output
    is of an unknown form."""
    file = _read(config, quantized)
    meaning = _meaning(file, _names(file.metadata) or classes)
    net = FileNet(file.path)
    return OnnxModel(net, file.graph, file.path, file.imgsz, file.channels, file.size_bytes, file.metadata, **meaning)


def _read(config: ModelConfig, quantized: bool = False) -> onnx_file.OnnxFile:
    if config.path is None:
        raise UserError(KEY, None, "use an .onnx file")
    if config.mean is not None:
        raise UserError("model.mean", config.mean, "set null, and export the ONNX file with its normalisation included")
    return onnx_file.read(Path(config.path), config.imgsz or 0, config.channels or 0, quantized)


def _meaning(file: onnx_file.OnnxFile, classes: tuple[str, ...] | None) -> dict[str, Any]:
    """The fields of `OnnxModel` that depend on the form of its output."""
    task, shapes, count = file.metadata.get("task"), list(file.outputs.values()), len(classes or ())
    if task in ultralytics_instances.DECODERS:
        return _instances(file, task, shapes, classes)
    if task not in (None, DETECT.name, CLASSIFY.name):
        known = ", ".join((DETECT.name, CLASSIFY.name, *ultralytics_instances.DECODERS))
        raise UserError(KEY, file.path, f"its task is {task}: supported are {known}")
    if len(shapes) != 1:
        names = ", ".join(file.outputs)
        raise UserError(KEY, file.path, f"has {len(shapes)} outputs ({names}): export it with one output")
    shape = shapes[0]
    if shape[:1] == (1,) and len(shape) == 2 and task != DETECT.name and count in (0, shape[1]):
        return {"classes": classes or tuple(map(str, range(shape[1])))}
    if shape[:1] == (1,) and len(shape) == 3 and task != CLASSIFY.name:
        if shape[2] == 6 and file.metadata.get("end2end") != "False":
            if classes is None:
                raise UserError(KEY, file.path, "has no class names in its metadata: set data that names the classes")
            return _boxes(classes, TopK(count, shape[1]))
        if shape[1] == 4 + count or (count == 0 and 4 < shape[1] < shape[2]):
            return _boxes(classes or tuple(map(str, range(shape[1] - 4))), None)
    supported = "(1, classes) scores, (1, n, 6) x1, y1, x2, y2, score, class, or (1, 4 + classes, anchors) of raw YOLO"
    known = f" for {count} classes" if count else ""
    raise UserError(KEY, file.path, f"its output has shape {shape}{known}: supported are {supported}")


def _instances(
    file: onnx_file.OnnxFile, name: str, shapes: list[tuple[int, ...]], classes: tuple[str, ...] | None
) -> dict[str, Any]:
    """As `_meaning`, for exports of the Ultralytics package with masks, keypoints or turned boxes."""
    require_ultralytics()  # which decodes them
    end_to_end, task = file.metadata.get("end2end") == "True", TASKS[name]
    keypoints = _literal(file.metadata.get("kpt_shape"))
    if isinstance(task, Pose):
        if not isinstance(keypoints, list | tuple) or [type(number) for number in keypoints] != [int, int]:
            raise UserError(KEY, file.path, "has no kpt_shape in its metadata: export it with Ultralytics")
        task = replace(task, keypoints=tuple(keypoints))
    if classes is None:
        raise UserError(KEY, file.path, "has no class names in its metadata: set data that names the classes")
    further = {"segment": shapes[-1][1], "pose": prod(getattr(task, "keypoints", ())), "obb": 1}[name]
    ranks = [3, 4] if name == "segment" else [3]
    width = (6 if end_to_end else 4 + len(classes)) + further
    if [len(shape) for shape in shapes] != ranks or shapes[0][2 if end_to_end else 1] != width:
        why = f"expected rows of {width} numbers for {len(classes)} classes, as Ultralytics exports them"
        raise UserError(KEY, file.path, f"its outputs have shapes {shapes}: {why}")
    decode = partial(ultralytics_instances.DECODERS[name], end_to_end=end_to_end, classes=len(classes))
    decode = partial(decode, shape=task.keypoints) if isinstance(task, Pose) else decode
    postprocess = TopK(len(classes), shapes[0][1]) if end_to_end else None
    return {
        "classes": classes, "task": task, "postprocess": postprocess, "default_stride": 32, "decode": decode,
        "exclusions": _last_layers,
    }  # fmt: skip


def _boxes(classes: tuple[str, ...], postprocess: TopK | None) -> dict[str, Any]:
    decode = partial(ultralytics_head.decode, end_to_end=postprocess is not None)
    fields = {"default_stride": 32, "decode": decode, "exclusions": _last_layers}
    return {"classes": classes, "task": DETECT, "postprocess": postprocess, **fields}


def _names(metadata: dict[str, str]) -> tuple[str, ...] | None:
    """Class names as Ultralytics embeds them, `{0: 'person', …}` or a list; None if there are none."""
    names = _literal(metadata.get("names"))
    if isinstance(names, dict) and names.keys() == set(range(len(names))):
        names = [names[index] for index in range(len(names))]
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _literal(text: str | None) -> object:
    """Parses a Python literal without running code; None if `text` is not one."""
    try:
        return ast.literal_eval(text) if text and len(text) <= MAX_TEXT else None
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _last_layers(graph: ModelProto) -> dict[str, str]:
    """{module: reason} for the weighted layers that no other weighted layer follows: their outputs, a detector's boxes
    and scores, are unbounded. A projection of softmaxed bins (DFL) and the layer before it stay in float too."""
    nodes = {node.name: node for node in onnx_graph.nodes(graph)}
    kinds = {node.name: node.op_type for node in graph.graph.node}
    outputs = {value.name for value in graph.graph.output}
    pending = [node.name for node in graph.graph.node if outputs.intersection(node.output)]
    exclusions: dict[str, str] = {}
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen or name not in nodes:
            continue
        seen.add(name)
        node = nodes[name]
        bins = node.weighted and _is_softmaxed(node, nodes, kinds)
        if node.weighted:
            exclusions[module_path(name)] = BINS if bins else LAST
        if bins or not node.weighted:
            pending.extend(node.parents)
    return exclusions


def _is_softmaxed(node: Node, nodes: dict[str, Node], kinds: dict[str, str]) -> bool:
    """True if the node's only input is a softmax, possibly rearranged by `MOVES`."""
    parents = node.parents
    while len(parents) == 1 and kinds.get(parents[0]) in MOVES:
        parents = nodes[parents[0]].parents
    return len(parents) == 1 and kinds.get(parents[0]) == "Softmax"
