"""Networks whose loss and decoding come from their task: timm's classifiers by name, or any importable `nn.Module` that
maps images (b, c, s, s) to what the task expects, (b, classes) logits for classification."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from compress import tasks
from compress.capabilities import Teacher, example_image, tensor_digest
from compress.config import Family, ModelConfig
from compress.errors import MissingExtra, UserError, named
from compress.models import activation, imported, normalisation, weights
from compress.models.normalisation import Statistics
from compress.tasks import CLASSIFY, Batch, PlainNetworkTask, Predictions, Task
from compress.training.precision import float32

LAST = "returns the classes: its channels are the output"


@dataclass(frozen=True)
class PlainNetwork:
    """A model (`Trainable`, `Evaluable`, `Prunable`, `Checkpointable`) for networks of any `PlainNetworkTask`."""

    net: nn.Module
    facts: dict[str, Any]  # family and what it needs to build the network again
    last: str  # the layer that returns the output
    imgsz: int
    channels: int
    classes: tuple[str, ...]
    protected: tuple[str, ...] = ()
    statistics: Statistics | None = None  # that `net` normalises its input with, see `models.normalisation`
    task: PlainNetworkTask = CLASSIFY  # a supervised task that offers `PlainNetworkTask`

    @property
    def stride(self) -> int:
        return 1

    def with_net(self, net: nn.Module) -> Self:
        return replace(self, net=net)

    def with_imgsz(self, imgsz: int) -> Self:
        return replace(self, imgsz=imgsz)

    def identity(self) -> str:
        return tensor_digest(self.net)

    def loss(self, net: nn.Module, batch: Batch, teacher: Teacher | None = None) -> Tensor:
        return plain_loss(self.task, net, batch, teacher)

    def output_signature(self) -> tuple[object, ...]:
        return ("plain network",)

    postprocess: ClassVar[None] = None

    def deployed(self, *, postprocess: bool = True) -> nn.Module:
        """Eval-mode copy returning logits (b, classes). Exporters and runtimes fold its BatchNorms themselves."""
        return copy.deepcopy(self.net).float().eval().requires_grad_(False)

    def prunable(self) -> tuple[nn.Module, dict[str, str]]:
        kept = normalisation.module_names(self.net, self.protected)
        return copy.deepcopy(self.net).eval(), {self.last: LAST} | dict.fromkeys(kept, "model.protected")

    def decode(self, outputs: np.ndarray) -> Predictions:
        return self.task.decode(outputs)

    def constructor(self) -> dict[str, Any]:
        return self.facts | {
            "classes": list(self.classes), "channels": self.channels, "imgsz": self.imgsz,
            "protected": list(self.protected), "activation": activation.of(self.net),
            **({"task": self.task.path} if self.task.path else {}),
            **(self.statistics.facts() if self.statistics else {}),
        }  # fmt: skip

    def preprocessing(self) -> dict[str, Any]:
        """`compress.product.Preprocessed`: how the graph normalises, and how timm prepares images for its weights."""
        facts: dict[str, Any] = {}
        if self.statistics is not None:
            facts["normalised_in_graph"] = self.statistics.facts()
        if self.facts["family"] == "timm" and (config := _timm_config(self.facts["name"])) is not None:
            facts["timm"] = {
                "interpolation": config.interpolation, "crop_pct": config.crop_pct, "crop_mode": config.crop_mode,
                "note": "how timm resizes and crops for its own weights; here images were letterboxed",
            }  # fmt: skip
        return facts

    def metadata(self) -> dict[str, str]:
        return {"task": self.task.name, "names": str(dict(enumerate(self.classes)))}

    def quantization_exclusions(self) -> dict[str, str]:
        return {}  # a linear layer of logits loses nothing that calibration would not show

    def example_input(self, batch: int = 1) -> Tensor:
        return example_image(batch, self.channels, self.imgsz)


def plain_loss(
    task: PlainNetworkTask,
    net: nn.Module,
    batch: Batch,
    teacher: Teacher | None,
    outputs: Callable[[Any], Tensor] = float32,
) -> Tensor:
    """The task's loss, in float32; with a teacher its distillation loss is added.

    `outputs` extracts float32 (b, …) from what a network returns.
    """
    own = outputs(net(batch["img"]))
    value = task.network_loss(own, batch)
    if teacher is None:
        return value
    with torch.no_grad():
        target = outputs(teacher.net(batch["img"]))
    return value + teacher.weight * task.distillation_loss(own, target)


def build_timm(config: ModelConfig, classes: tuple[str, ...] | None, task: Task | None) -> PlainNetwork:
    """timm's architecture `config.name` with `config.args`; never downloads weights.

    Raises:
        MissingExtra, UserError: timm absent, no such model, arguments or weights that do not fit.
    """
    if not config.name:
        raise UserError("model.name", config.name, "name a timm model, e.g. mobilenetv3_small_050")
    args = dict(config.args) | ({"num_classes": len(classes)} if classes else {})
    return _with_weights({"family": "timm", "name": config.name, "args": args}, config, classes, task)


def build_module(config: ModelConfig, classes: tuple[str, ...] | None, task: Task | None) -> PlainNetwork:
    """What the class or function at import path `config.target` returns for `config.args`.

    Raises:
        UserError: it cannot be imported or called, or gives no classifier.
    """
    if not config.target:
        raise UserError("model.target", config.target, "set the import path of a class or function: pkg.module.Net")
    return _with_weights(
        {"family": "module", "target": config.target, "args": dict(config.args)}, config, classes, task
    )


def from_constructor(facts: dict[str, Any], trust: bool = False) -> PlainNetwork:
    """The unpruned network, with random weights, that `PlainNetwork.constructor` described.

    Raises:
        UserError: without `trust`, a network that neither this package nor timm provides.
    """
    net_facts: dict[str, Any] = {str(key): facts[key] for key in ("family", "name", "target", "args") if key in facts}
    if isinstance(target := net_facts.get("target"), str):
        net_facts["target"] = imported.MOVED.get(target, target)
    if not trust:
        imported.check_provided(net_facts, facts["channels"])
    found = normalisation.statistics(facts.get("mean"), facts.get("std"), facts["channels"])
    model = _assemble(
        net_facts,
        tuple(facts["classes"]),
        facts["channels"],
        facts["imgsz"],
        tuple(facts["protected"]),
        found,
        tasks.of(facts.get("task", CLASSIFY.name), trust),
    )
    activation.swap(model.net, facts.get("activation"))
    return model


def _with_weights(
    facts: dict[str, Any], config: ModelConfig, classes: tuple[str, ...] | None, task: Task | None
) -> PlainNetwork:
    given = weights.read(config.weights, trust=config.trust) if config.weights else None
    if given and given.classes:
        classes = given.classes
        if "num_classes" in facts["args"]:
            facts["args"]["num_classes"] = len(classes)
    imgsz, channels = config.input
    found = _statistics(config, given.constructor if given else {}, channels)
    own = task if isinstance(task, PlainNetworkTask) else CLASSIFY  # `check_same` refuses data of other tasks
    model = _assemble(facts, classes, channels, imgsz, tuple(config.protected), found, own)
    net = normalisation.inner(model.net)
    if given:
        activation.swap(model.net, given.constructor.get("activation"))
        weights.fill(net, normalisation.bare(given.tensors, given.constructor), str(config.weights))
    elif config.init:
        start = weights.read(config.init, "model.init", config.trust)
        weights.transfer(net, normalisation.bare(start.tensors, start.constructor), config.init)
    return model


def _statistics(config: ModelConfig, constructor: dict[str, Any], channels: int) -> Statistics | None:
    """What the config says; else what the checkpoint that the weights are from was trained with; else timm's."""
    if config.mean is not None or constructor:
        source = {"mean": config.mean, "std": config.std} if config.mean is not None else constructor
        return normalisation.statistics(source.get("mean"), source.get("std"), channels)
    known = _timm_config(config.name) if config.family is Family.timm else None
    return normalisation.statistics(known.mean, known.std, channels) if known is not None else None


def timm_input(config: ModelConfig) -> tuple[int | None, int | None]:
    """Input side in pixels and channels that timm says of the model; None where it says nothing, or no square."""
    known = _timm_config(config.name)
    if known is None:
        return None, None
    channels, height, width = known.input_size
    side = config.args.get("img_size", height if height == width else None)
    return side if isinstance(side, int) else None, channels


def _timm_config(name: str | None) -> Any:
    """timm's `PretrainedCfg` of a model; None where there is none, or no timm."""
    try:
        timm = imported.require_timm()
    except MissingExtra:  # building the model says so
        return None
    return timm.get_pretrained_cfg(name) if name and timm.is_model(name) else None


def _assemble(
    facts: dict[str, Any],
    classes: tuple[str, ...] | None,
    channels: int,
    imgsz: int,
    protected: tuple[str, ...],
    statistics: Statistics | None,
    task: PlainNetworkTask,
) -> PlainNetwork:
    try:
        json.dumps(facts)
    except TypeError as error:
        raise UserError("model.args", facts["args"], "use numbers, texts, lists and maps only") from error
    net = _timm(facts, channels) if facts["family"] == "timm" else imported.network(facts["target"], facts["args"])
    net = normalisation.wrap(net, statistics)
    with torch.random.fork_rng(devices=[]):
        last, width = _last_layer(net.eval(), example_image(1, channels, imgsz), task)
    if classes is not None and len(classes) != width:
        raise UserError(
            "model",
            facts.get("target") or facts["name"],
            f"gives {width} classes, the data has {len(classes)}",
        )
    classes = classes or tuple(str(index) for index in range(width))
    return PlainNetwork(net.train(), facts, last, imgsz, channels, classes, protected, statistics, task)


def _timm(facts: dict[str, Any], channels: int) -> nn.Module:
    timm = imported.require_timm()
    if not timm.is_model(facts["name"]):
        like = timm.list_models(f"*{facts['name'].split('_')[0]}*")[:8]
        raise UserError("model.name", facts["name"], f"no such timm model; near: {', '.join(like) or 'none'}")
    try:
        return timm.create_model(facts["name"], pretrained=False, in_chans=channels, **facts["args"])
    except Exception as error:  # whatever the model's code raises for arguments that it was not made for
        raise UserError("model.args", facts["args"], f"timm refuses them: {named(error)}") from error


def _last_layer(net: nn.Module, example: Tensor, task: PlainNetworkTask) -> tuple[str, int]:
    """Name of the last linear or convolution that runs, and the number of classes."""
    order: list[str] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, ___, name=name: order.append(name))
        for name, layer in net.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    ]
    try:
        with torch.no_grad():
            out = net(example)
    except (Exception, SystemExit) as error:  # the user's own code
        why = f"the network fails on such an input: {named(error)}"
        raise UserError("model.imgsz", list(example.shape), why) from error
    finally:
        for hook in hooks:
            hook.remove()
    classes = task.output_classes(out, len(example))
    if classes is None or not order:
        shape = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise UserError("model", type(net).__name__, f"returns {shape}, {task.expected_output}")
    return order[-1], classes
