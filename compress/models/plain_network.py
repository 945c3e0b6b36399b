"""Networks whose loss and decoding come from their task: timm classifiers by name, or any importable `nn.Module` that
maps images (b, c, s, s) to the output that the task expects, e.g. logits (b, classes) for classification."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from compress import tasks
from compress.capabilities import Teacher, example_image, tensor_digest
from compress.config import Family, ModelConfig
from compress.errors import MissingExtra, UserError, named
from compress.models import activation, imported, normalisation, weights
from compress.models.normalisation import Statistics
from compress.tasks import CLASSIFY, Batch, Outputs, PlainNetworkTask, Predictions, Task
from compress.training.precision import float32

MAIN = "out"  # the output of torchvision's networks for semantic segmentation, which may have further ones
LAST_LAYER = "last layer: its channels are the output of the task"


@dataclass(frozen=True)
class PlainNetwork:
    """A model (`Trainable`, `Evaluable`, `Prunable`, `Checkpointable`) for networks of any `PlainNetworkTask`."""

    net: nn.Module
    spec: dict[str, Any]  # {family, name or target, args}, from which the network can be rebuilt
    last_layer: str  # name of the layer that computes the output
    imgsz: int  # side of the square input, in pixels
    channels: int  # of the input
    classes: tuple[str, ...]
    protected: tuple[str, ...] = ()  # names of modules that keep their channels (`model.protected`)
    statistics: Statistics | None = None  # of the normalisation in `net`, see `models.normalisation`
    task: PlainNetworkTask = CLASSIFY

    @property
    def stride(self) -> int:
        return 1

    def with_net(self, net: nn.Module) -> Self:
        return replace(self, net=net)

    def with_imgsz(self, imgsz: int) -> Self:
        return replace(self, imgsz=imgsz)

    def identity(self) -> str:
        return tensor_digest(self.net)

    def loss(self, net: nn.Module, batch: Batch, teacher: Teacher | None = None, parts: int = 1) -> Tensor:
        return plain_loss(self.task, net, batch, teacher)

    def output_signature(self) -> tuple[object, ...]:
        return ("plain network",)

    postprocess: ClassVar[None] = None

    def deployed(self, *, postprocess: bool = True) -> nn.Module:
        """Float32 copy of `net` in eval mode. It is not fused: exporters and runtimes fold BatchNorm."""
        return copy.deepcopy(self.net).float().eval().requires_grad_(False)

    def prunable(self) -> tuple[nn.Module, dict[str, str]]:
        names = normalisation.module_names(self.net, self.protected)
        return copy.deepcopy(self.net).eval(), {self.last_layer: LAST_LAYER} | dict.fromkeys(names, "model.protected")

    def decode(self, outputs: Outputs) -> Predictions:
        return self.task.decode(outputs)

    def constructor(self) -> dict[str, Any]:
        return self.spec | {
            "classes": list(self.classes), "channels": self.channels, "imgsz": self.imgsz,
            "protected": list(self.protected), "activation": activation.of(self.net),
            **({} if self.task.name == CLASSIFY.name else {"task": self.task.path or self.task.name}),
            **(self.statistics.as_dict() if self.statistics else {}),
        }  # fmt: skip

    def preprocessing(self) -> dict[str, Any]:
        """See `Preprocessed`: the normalisation in the graph, and timm's preprocessing for its pretrained weights."""
        result: dict[str, Any] = {}
        if self.statistics is not None:
            result["normalised_in_graph"] = self.statistics.as_dict()
        if self.spec["family"] == "timm" and (config := _timm_config(self.spec["name"])) is not None:
            result["timm"] = {
                "interpolation": config.interpolation, "crop_pct": config.crop_pct, "crop_mode": config.crop_mode,
                "note": "how timm resizes and crops for its pretrained weights; here images are letterboxed",
            }  # fmt: skip
        return result

    def metadata(self) -> dict[str, str]:
        return {"task": self.task.name, "names": str(dict(enumerate(self.classes)))}

    def quantization_exclusions(self) -> dict[str, str]:
        return {}  # static calibration is accurate enough for every layer

    def example_input(self, batch: int = 1) -> Tensor:
        return example_image(batch, self.channels, self.imgsz)


def plain_loss(
    task: PlainNetworkTask,
    net: nn.Module,
    batch: Batch,
    teacher: Teacher | None,
    outputs: Callable[..., Tensor] = float32,
) -> Tensor:
    """The task's loss, scalar, in float32. With a teacher: (2,), that and the distillation loss times `teacher.weight`;
    if `teacher.alone` only the latter, scalar.
    `outputs` extracts float32 (b, …) from the return value of a network."""
    student = outputs(net(batch["img"]))
    if teacher is None:
        return task.network_loss(student, batch)
    with torch.no_grad():
        target = outputs(teacher.net(batch["img"]))
    distance = teacher.weight * task.distillation_loss(student, target)
    return distance if teacher.alone else torch.stack([task.network_loss(student, batch), distance])


def build_timm(config: ModelConfig, classes: tuple[str, ...] | None, task: Task | None) -> PlainNetwork:
    """Builds timm's architecture `config.name` with `config.args`. Never downloads weights. Raises MissingExtra without
    timm, UserError if there is no such model, or if arguments or weights do not fit."""
    if not config.name:
        raise UserError("model.name", config.name, "set the name of a timm model, e.g. mobilenetv3_small_050")
    args = dict(config.args) | ({"num_classes": len(classes)} if classes else {})
    return _build({"family": "timm", "name": config.name, "args": args}, config, classes, task)


def build_module(config: ModelConfig, classes: tuple[str, ...] | None, task: Task | None) -> PlainNetwork:
    """Builds a network by calling the class or function at import path `config.target` with `config.args`. Raises
    UserError if that fails, or if output or weights do not fit."""
    if not config.target:
        raise UserError("model.target", config.target, "set the import path of a class or function: pkg.module.Net")
    return _build({"family": "module", "target": config.target, "args": dict(config.args)}, config, classes, task)


def from_constructor(constructor: dict[str, Any], trust: bool = False) -> PlainNetwork:
    """Builds the unpruned network, with random weights, that `PlainNetwork.constructor` describes. Raises UserError if
    it comes from neither this package nor timm, and `trust` is false."""
    spec: dict[str, Any] = {key: constructor[key] for key in ("family", "name", "target", "args") if key in constructor}
    if isinstance(target := spec.get("target"), str):
        spec["target"] = imported.MOVED.get(target, target)
    channels = constructor["channels"]
    if not trust:
        imported.check_provided(spec, channels)
    statistics = normalisation.statistics(constructor.get("mean"), constructor.get("std"), channels)
    classes, imgsz, protected = constructor["classes"], constructor["imgsz"], constructor["protected"]
    task = tasks.of(constructor.get("task", CLASSIFY.name), trust)
    model = _assemble(spec, tuple(classes), channels, imgsz, tuple(protected), statistics, task)
    activation.swap(model.net, constructor.get("activation"))
    return model


def _build(
    spec: dict[str, Any], config: ModelConfig, classes: tuple[str, ...] | None, task: Task | None
) -> PlainNetwork:
    """Builds the network of `spec`, and loads `config.weights` or copies what fits of `config.init`."""
    loaded = weights.read(config.weights, trust=config.trust) if config.weights else None
    if loaded and loaded.classes:  # they replace those of the data, since the order of the outputs is theirs
        classes = loaded.classes
        if "num_classes" in spec["args"]:
            spec["args"]["num_classes"] = len(classes)
    imgsz, channels = config.input
    statistics = _statistics(config, loaded.constructor if loaded else {}, channels)
    plain_task = task if isinstance(task, PlainNetworkTask) else CLASSIFY  # `tasks.check_same` rejects other tasks
    model = _assemble(spec, classes, channels, imgsz, tuple(config.protected), statistics, plain_task)
    net = normalisation.inner(model.net)
    if loaded:
        activation.swap(model.net, loaded.constructor.get("activation"))
        weights.fill(net, normalisation.bare(loaded.tensors, loaded.constructor), str(config.weights))
    elif config.init:
        start = weights.read(config.init, "model.init", config.trust)
        weights.transfer(net, normalisation.bare(start.tensors, start.constructor), config.init)
    return model


def _statistics(config: ModelConfig, constructor: dict[str, Any], channels: int) -> Statistics | None:
    """Normalisation from the configuration, else from the checkpoint of the weights, else from timm."""
    mean, std = config.mean, config.std
    if mean is None and constructor:
        mean, std = constructor.get("mean"), constructor.get("std")
    elif mean is None and config.family is Family.timm and (pretrained := _timm_config(config.name)) is not None:
        mean, std = pretrained.mean, pretrained.std
    return normalisation.statistics(mean, std, channels)


def timm_input(config: ModelConfig) -> tuple[int | None, int | None]:
    """Side (pixels) and channels of the input for which timm configures the model; None if unknown or not square."""
    pretrained = _timm_config(config.name)
    if pretrained is None:
        return None, None
    channels, height, width = pretrained.input_size
    side = config.args.get("img_size", height if height == width else None)
    return side if isinstance(side, int) else None, channels


def _timm_config(name: str | None) -> Any:
    """timm's `PretrainedCfg` of a model; None if it has none or timm is not installed."""
    try:
        timm = imported.require_timm()
    except MissingExtra:  # raised again when the model is built
        return None
    return timm.get_pretrained_cfg(name) if name and timm.is_model(name) else None


def _assemble(
    spec: dict[str, Any],
    classes: tuple[str, ...] | None,
    channels: int,
    imgsz: int,
    protected: tuple[str, ...],
    statistics: Statistics | None,
    task: PlainNetworkTask,
) -> PlainNetwork:
    """Builds the network with normalisation and finds its last layer."""
    try:
        json.dumps(spec)
    except TypeError as error:
        raise UserError("model.args", spec["args"], "use only numbers, strings, lists and maps") from error
    net = _timm(spec, channels) if spec["family"] == "timm" else imported.network(spec["target"], spec["args"])
    net = net if statistics is None else normalisation.Normalised(net, statistics)
    with torch.random.fork_rng(devices=[]):  # the trial pass must not change the random state of the run
        last_layer, count = _last_layer(net.eval(), example_image(1, channels, imgsz), task)
    if classes is not None and len(classes) != count:
        source = spec.get("target") or spec["name"]
        raise UserError("model", source, f"returns {count} classes, the data has {len(classes)}")
    classes = classes or tuple(map(str, range(count)))
    return PlainNetwork(net.train(), spec, last_layer, imgsz, channels, classes, protected, statistics, task)


def _timm(spec: dict[str, Any], channels: int) -> nn.Module:
    timm = imported.require_timm()
    if not timm.is_model(spec["name"]):
        like = timm.list_models(f"*{spec['name'].split('_')[0]}*")[:8]
        raise UserError("model.name", spec["name"], f"no such timm model; similar names: {', '.join(like) or 'none'}")
    try:
        return timm.create_model(spec["name"], pretrained=False, in_chans=channels, **spec["args"])
    except Exception as error:  # models raise various exceptions for wrong arguments
        raise UserError("model.args", spec["args"], f"timm rejects these arguments: {named(error)}") from error


def _last_layer(net: nn.Module, example: Tensor, task: PlainNetworkTask) -> tuple[str, int]:
    """Name of the last linear layer or convolution that runs, and the number of classes."""
    order: list[str] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, ___, name=name: order.append(name))
        for name, layer in net.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    ]
    try:
        with torch.no_grad():
            out = net(example)
            if isinstance(out, Mapping) and MAIN in out:
                net.register_forward_hook(_main_output)
                out = out[MAIN]
    except (Exception, SystemExit) as error:  # the user's own code
        why = f"the network fails on an input of this shape: {named(error)}"
        raise UserError("model.imgsz", list(example.shape), why) from error
    finally:
        for hook in hooks:
            hook.remove()
    classes = task.output_classes(out, len(example))
    if classes is None or not order:
        shape = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise UserError("model", type(net).__name__, f"returns {shape}, {task.expected_output}")
    return order[-1], classes


def _main_output(net: nn.Module, inputs: Any, output: Any) -> Any:
    return output[MAIN] if isinstance(output, Mapping) else output
