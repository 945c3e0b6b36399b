"""`model=onnx`: somebody has an ONNX file and no torch network. It is measured, quantized and exported."""

from __future__ import annotations

import ast
import hashlib
import logging
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto
from torch import Tensor, nn

from compress.capabilities import TopK, example_image, tensor_digest
from compress.config import Config, ModelConfig
from compress.errors import TargetFailed, UserError, one_line
from compress.models import onnx_file, ultralytics_head
from compress.models.onnx_file import KEY
from compress.targets import onnx_graph, quantization_exclusions
from compress.tasks import CLASSIFY, DETECT, Predictions, Task

TORCH_ONLY = ("train", "prune", "finetune")
FROM_TORCH = ("ncnn", "litert")  # targets whose converters read torch networks, not graphs
REMEDY = "use the torch model instead: model=ultralytics, timm, module or checkpoint"
LAST = "last layer before the answer: its error goes straight into it"
BINS = "expectation over distance bins, a softmax that needs fine steps"
MAX_TEXT = 2**22  # of a metadata entry in Python's notation
MOVES = {"Transpose", "Reshape", "Unsqueeze", "Squeeze"}

log = logging.getLogger(__name__)


class FileNet(nn.Module):
    """The file as it was given, run by ONNX Runtime image by image: (b, c, s, s) to what it answers. It has no weights
    that torch can see."""

    sha256: Tensor

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            self.session = onnx_graph.open_session(path, onnx_graph.session_options(torch.get_num_threads()))
        except TargetFailed as error:
            raise UserError(KEY, path, one_line(error)) from error
        self.input = self.session.get_inputs()[0].name
        # In the state dict, so that what is told apart by its tensors (`product.identity`) is told apart.
        digest = hashlib.sha256(path.read_bytes()).digest()
        self.register_buffer("sha256", torch.tensor(list(digest), dtype=torch.uint8))

    def forward(self, images: Tensor) -> Tensor:
        answers = [self.session.run(None, {self.input: image[None]})[0] for image in images.numpy()]
        return torch.from_numpy(np.concatenate(answers))

    def __deepcopy__(self, memo: object) -> Self:
        """Sessions cannot be copied, and nothing here changes."""
        return self


@dataclass(frozen=True)
class Meaning:
    """How the output of a file is understood."""

    classes: tuple[str, ...]
    postprocess: TopK | None = None
    task: ClassVar[Task]
    stride: ClassVar[int]  # where the file does not say

    def decode(self, outputs: np.ndarray) -> Predictions:
        raise NotImplementedError

    def exclusions(self, graph: ModelProto) -> dict[str, str]:
        """{module: reason} of what INT8 should leave in float."""
        return {}


class Scores(Meaning):
    """Of a classifier: (1, classes)."""

    task, stride = CLASSIFY, 1

    def decode(self, outputs: np.ndarray) -> Predictions:
        return CLASSIFY.decode(outputs)


class Boxes(Meaning):
    """Of a detector: (1, n, 6) x1, y1, x2, y2, score, class, or (1, 4 + classes, anchors)."""

    task, stride = DETECT, 32

    def decode(self, outputs: np.ndarray) -> Predictions:
        return ultralytics_head.decode(outputs, end_to_end=self.postprocess is not None)

    def exclusions(self, graph: ModelProto) -> dict[str, str]:
        return _last_layers(graph)


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX file (`GivenAsGraph`, `Evaluable`): it is measured, quantized and exported, never trained or pruned."""

    net: FileNet  # computes what the file as given returns; everything made of it is compared with that
    graph: ModelProto
    path: Path
    meaning: Meaning
    imgsz: int
    channels: int
    size_bytes: int  # of the file as given
    carried: dict[str, str] = field(default_factory=dict)  # metadata of the file as given

    @property
    def runtime(self) -> str:
        """What computes `net`."""
        return f"onnxruntime {onnxruntime.__version__}"

    @property
    def stride(self) -> int:
        said = self.carried.get("stride", "")
        return int(said) if re.fullmatch("[1-9][0-9]{0,3}", said) else self.meaning.stride

    @property
    def task(self) -> Task:
        return self.meaning.task

    @property
    def classes(self) -> tuple[str, ...]:
        return self.meaning.classes

    @property
    def postprocess(self) -> TopK | None:
        return self.meaning.postprocess

    def identity(self) -> str:
        return tensor_digest(self.net)

    def deployed(self, *, postprocess: bool = True) -> nn.Module:
        """The file as given. Its last step cannot be removed; only targets that convert from torch ask for that."""
        return self.net

    def decode(self, outputs: np.ndarray) -> Predictions:
        """Raw outputs (b, …): (b, n, 6) or (b, 4 + classes, anchors) to detections, (b, classes) unchanged."""
        return self.meaning.decode(outputs)

    def metadata(self) -> dict[str, str]:
        """What the file carried, its shapes as they are now: fixed."""
        facts = {"task": self.task.name, "names": str(dict(enumerate(self.classes))), **self.carried}
        facts |= {key: str(value) for key, value in self._fixed().items() if key in facts}
        return facts

    def _fixed(self) -> dict[str, object]:
        args = _literal(self.carried.get("args"))
        fixed = {"batch": 1, "dynamic": False}
        args = {**args, **{key: fixed[key] for key in fixed if key in args}} if isinstance(args, dict) else {}
        return {"batch": 1, "imgsz": [self.imgsz, self.imgsz], "args": args}

    def quantization_exclusions(self) -> dict[str, str]:
        return self.meaning.exclusions(self.graph)

    def example_input(self, batch: int = 1) -> Tensor:
        return example_image(batch, self.channels, self.imgsz)


def resolve(config: Config) -> Config:
    """`config` with the file's own input size and channels.

    Raises:
        UserError: a stage or target that needs a torch network, or a file that cannot be worked on.
    """
    for stage in config.stages:
        if stage in TORCH_ONLY:
            why = f"model=onnx has no torch network to {stage}, only quantize and export work on a file: {REMEDY}"
            raise UserError("stages", f"[{', '.join(config.stages)}]", why)
    for target in config.targets or []:
        if target in FROM_TORCH:
            why = f"{target} is converted from torch, which model=onnx has not: take it out of targets, or {REMEDY}"
            raise UserError("targets", target, why)
    file = _read(config.model)
    return replace(config, model=replace(config.model, imgsz=file.imgsz, channels=file.channels))


def build(config: ModelConfig, classes: tuple[str, ...] | None, task: Task | None = None) -> OnnxModel:
    """The model in the file `config.path`: what it is for is read from its metadata and the shape of its answer.

    Args:
        classes: the data's class names; those in the file win.

    Raises:
        UserError: a file that cannot be worked on, or an answer that is not understood.
    """
    file = _read(config)
    meaning = _meaning(file, _names(file.metadata) or classes)
    net = FileNet(file.path)
    return OnnxModel(net, file.graph, file.path, meaning, file.imgsz, file.channels, file.size_bytes, file.metadata)


def _read(config: ModelConfig) -> onnx_file.OnnxFile:
    if config.path is None:
        raise UserError(KEY, None, "use an .onnx file")
    if config.mean is not None:
        raise UserError("model.mean", config.mean, "a graph is taken as it is: export it with its normalisation inside")
    return onnx_file.read(Path(config.path), config.imgsz or 0, config.channels or 0)


def _meaning(file: onnx_file.OnnxFile, classes: tuple[str, ...] | None) -> Meaning:
    said, shape, count = file.metadata.get("task"), file.output, len(classes or ())
    if said not in (None, DETECT.name, CLASSIFY.name):
        raise UserError(KEY, file.path, f"is made to {said}: only detectors and classifiers are understood")
    if shape[:1] == (1,) and len(shape) == 2 and said != DETECT.name and count in (0, shape[1]):
        return Scores(classes or _numbered(shape[1]))
    if shape[:1] == (1,) and len(shape) == 3 and said != CLASSIFY.name:
        if shape[2] == 6 and file.metadata.get("end2end") != "False":
            if classes is None:
                raise UserError(KEY, file.path, "does not name its classes: use data that does")
            return Boxes(classes, TopK(count, shape[1]))
        if shape[1] == 4 + count or (count == 0 and 4 < shape[1] < shape[2]):
            return Boxes(classes or _numbered(shape[1] - 4))
    wanted = "(1, classes) scores, (1, n, 6) x1, y1, x2, y2, score, class, or (1, 4 + classes, anchors) as raw YOLO"
    known = f", and {count} classes are known" if count else ""
    raise UserError(KEY, file.path, f"answers in shape {shape}{known}: understood are {wanted}")


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(str(index) for index in range(count))


def _names(metadata: dict[str, str]) -> tuple[str, ...] | None:
    """Class names as Ultralytics embeds them, `{0: 'person', …}`; None where there are none."""
    names = _literal(metadata.get("names"))
    if isinstance(names, dict) and names and names.keys() == set(range(len(names))):
        return tuple(str(names[index]) for index in range(len(names)))
    return tuple(str(name) for name in names) if isinstance(names, list) and names else None


def _literal(text: str | None) -> object:
    """What a text says in Python's notation; None where it is none. Nothing is run."""
    try:
        return ast.literal_eval(text) if text and len(text) <= MAX_TEXT else None
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _last_layers(graph: ModelProto) -> dict[str, str]:
    """{module: why} of the weighted layers from which no other leads to the answer: a detector's boxes and scores come
    out of them unbounded. A projection of softmaxed bins (DFL) is none of them; it stays in float, and so does what
    gives the bins."""
    nodes = {node.name: node for node in onnx_graph.nodes(graph)}
    kinds = {node.name: node.op_type for node in graph.graph.node}
    waiting = [node.name for node in graph.graph.node if onnx_graph.OUTPUT in node.output]
    kept: dict[str, str] = {}
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in nodes:
            continue
        seen.add(name)
        node = nodes[name]
        bins = node.weighted and _is_softmaxed(node, nodes, kinds)
        if node.weighted:
            kept[quantization_exclusions.module_path(name)] = BINS if bins else LAST
        if bins or not node.weighted:
            waiting.extend(node.parents)
    return kept


def _is_softmaxed(
    node: quantization_exclusions.Node, nodes: dict[str, quantization_exclusions.Node], kinds: dict[str, str]
) -> bool:
    """Whether a node reads a softmax, perhaps moved about."""
    parents = node.parents
    while len(parents) == 1 and kinds.get(parents[0]) in MOVES:
        parents = nodes[parents[0]].parents
    return len(parents) == 1 and kinds.get(parents[0]) == "Softmax"
