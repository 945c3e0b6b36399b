"""Training and fine-tuning of a model with its own loss, optionally distilling from a teacher."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.cache import Cache
from compress.cached_graphs import environment, model_key
from compress.capabilities import LossScheduled, Model, Teacher, TorchModel, Trainable, require
from compress.config import BALANCED, Config, FinetuneConfig
from compress.data import DataSet, Split, TrainingBatches, batches, supervised
from compress.errors import UserError
from compress.measurement.rows import flops_at
from compress.models import activation
from compress.pruning.importance import NEED_GRADIENTS
from compress.tasks import CLASS_WEIGHTS, Batch
from compress.training import distributed
from compress.training.class_weights import normalised
from compress.training.curve import FILE, Curve, Report
from compress.training.engine import fit
from compress.training.memory import out_of_memory
from compress.training.placement import Placement, prepare, synchronise
from compress.training.precision import autocast
from compress.training.schedule import Schedule
from compress.training.settings import LONG, TrainingSettings, by_capability, choose, native_bfloat16

RATE = 0.0015  # peak learning rate of an unpruned network
VERSION = 4  # of the computation of the stages train and finetune; part of their cache keys

log = logging.getLogger(__name__)


def check_training(model: Model, config: FinetuneConfig, data: DataSet, stage: str) -> None:
    """Raises UserError if the model cannot be trained, the training split is smaller than a batch, the batch cannot be
    divided among the processes, `class_weights` do not fit, or no activation function can be replaced."""
    activated(require(model, Trainable, "stages", stage), config, stage)
    weights, classes, key = config.class_weights, len(data.classes), f"{stage}.class_weights"
    if weights is not None and not supervised(data.train).weighs_classes:
        raise UserError(key, weights, f"the loss of {model.task.name} has no weights for classes: set null")
    if weights not in (None, BALANCED) and len(weights) != classes:
        raise UserError(key, weights, f"set {classes} numbers, one for each class in their order, or {BALANCED}")
    batch = config.batch
    parts = distributed.processes() * (config.accumulate or 1)
    if batch % parts:
        what = "processes" if config.accumulate == 1 else f"processes times {stage}.accumulate"
        raise UserError(f"{stage}.batch", batch, f"set a multiple of {parts}, the number of {what}")
    if batch > len(data.train):
        raise UserError(f"{stage}.batch", batch, f"set at most {len(data.train)}, the number of training images")


def tune(
    model: Model,
    teacher: Model | None,
    train: Split,
    config: FinetuneConfig,
    *,
    seed: int,
    stage: str,
    folder: Path,
    trained: bool = True,
    settings: TrainingSettings | None = None,
    flops_before: int | None = None,
    report: Report | None = None,
) -> Trainable:
    """Trains `model` as `config` describes and returns it. Its network is trained in place, or in a copy if its
    activation functions are replaced.

    Args:
        teacher: the model to distil from, with weight `config.distillation`; usually the reference of `model`.
        stage: prefix of config keys in errors, and label of the progress bar.
        folder: holds the state of an interrupted training, from which the next call resumes, and the curve (see
            `compress.training.curve`), which stays there.
        trained: the model has been trained before, so it starts with the loss weights of the end of a training.
        settings: how this machine computes; None: by the CPU's features.
        flops_before: FLOPs of the reference; None: those of the teacher.
        report: called with each point of the curve, those before an interruption included.

    Raises:
        UserError: training diverges, or the model cannot be trained.
    """
    model = activated(require(model, Trainable, "stages", stage), config, stage)
    rate = config.learning_rate
    if rate is None:
        rate = learning_rate(model, teacher, flops_before)
    frozen = None
    if teacher is not None and config.distillation:
        frozen = teach(teacher, config.distillation, alone=not train.labelled)
    state = folder / "training.safetensors"
    threads = torch.get_num_threads()
    settings = settings or by_capability(threads)
    torch.set_num_threads(settings.threads)
    try:
        training = _Training(
            model, frozen, train, schedule(config, rate, settings), settings.placement, config.accumulate,
            config.augment, seed, stage, state, Curve(folder / FILE, report), trained,
            class_weights(config, train, len(model.classes)),
        )  # fmt: skip
        tuned = distributed.run_on_all_ranks(training)
    except FloatingPointError as error:
        state.unlink(missing_ok=True)
        raise UserError(f"{stage}.learning_rate", rate, f"{error}: set a lower one") from error
    finally:
        torch.set_num_threads(threads)
    state.unlink(missing_ok=True)
    return model.with_net(tuned)


def class_weights(config: FinetuneConfig, train: Split, classes: int) -> Tensor | None:
    """The weights of the classes in the loss, see `normalised`; None if all images count the same."""
    if config.class_weights is None:
        return None
    chosen = None if config.class_weights == BALANCED else config.class_weights
    return torch.from_numpy(normalised(chosen, (sample.label for sample in train.samples), classes))


def activated(model: Trainable, config: FinetuneConfig, stage: str) -> Trainable:
    """The model with the activation functions of `config.activation`; a copy if any are replaced.

    Raises:
        UserError: the network has no activation modules to replace.
    """
    name = config.activation and config.activation.value
    if name in (None, activation.of(model.net)):
        return model
    net = copy.deepcopy(model.net)
    if activation.swap(net, name) == 0:
        remedy = "the network has no activation modules (such as torch.nn.SiLU) to replace: set null"
        raise UserError(f"{stage}.activation", name, remedy)
    return model.with_net(net)


@dataclass(frozen=True)
class _Training:
    """A training as it is sent to all processes."""

    model: Trainable
    teacher: Teacher | None
    train: Split
    plan: Schedule
    placement: Placement
    accumulate: int | None
    augment: bool
    seed: int
    stage: str
    state: Path
    curve: Curve
    trained: bool
    class_weights: Tensor | None = None

    def __call__(self) -> nn.Module:
        device = self.placement.device(distributed.local_rank())
        prepare(device)
        teacher = self.teacher and replace(self.teacher, net=self.teacher.net.to(device))
        batches = TrainingBatches(
            self.train, batch=self.plan.batch, seed=self.seed, augment=self.augment, pin_memory=device.type == "cuda"
        )

        weights = {} if self.class_weights is None else {CLASS_WEIGHTS: self.class_weights.to(device)}

        def loss(net: nn.Module, batch: Batch) -> Tensor:
            batch = {**batch, **weights}
            return self.model.loss(net, batch, teacher, self.plan.batch // len(batch["img"]))

        return fit(
            self.model.net, loss, batches, self.plan, seed=self.seed, device=device, accumulate=self.accumulate,
            checkpoint=self.state, metrics=self.curve, label=self.stage, on_step=self._schedule,
        )  # fmt: skip

    def _schedule(self, progress: float) -> None:
        if isinstance(self.model, LossScheduled):
            self.model.schedule_loss(self.model.net, 1.0 if self.trained else progress)


def learning_rate(model: Model, reference: Model | None, flops_before: int | None = None) -> float:
    """Peak learning rate of a pruned model: RATE times FLOPs before over FLOPs after, because a model that was pruned
    more has more to relearn.

    mAP50-95 of drone_nano after 4,000 images with a teacher, by peak rate: at 30 % of the FLOPs 0.397 (0.001), 0.469
    (0.003), 0.480 (0.006), 0.462 (0.01); at 50 % 0.625 (0.001 and 0.003); at 15 % 0.173 (0.003), 0.181 (0.007).
    """
    if reference is None and flops_before is None:
        return RATE
    if flops_before is None:
        assert reference is not None
        flops_before = flops_at(reference, reference.imgsz)
    return RATE * flops_before / flops_at(model, model.imgsz)


def teach(model: Model, weight: float, *, alone: bool = False) -> Teacher:
    """A frozen copy of `model` as teacher. `weight`, `alone`: see `Teacher`."""
    net = copy.deepcopy(require(model, TorchModel, "finetune.teacher", "…").net).eval().requires_grad_(False)
    return Teacher(net.to(memory_format=torch.channels_last), weight, alone)


def schedule(config: FinetuneConfig, rate: float, settings: TrainingSettings) -> Schedule:
    """The schedule of a training; `rate`: peak learning rate."""
    return Schedule(
        images=config.images,
        batch=config.batch,
        learning_rate=rate,
        optimizer=config.optimizer.value,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        warmup=config.warmup,
        ema=config.ema,
        format=settings.format,
        compile=settings.compile,
        channels_last=settings.channels_last,
    )


def choose_settings(
    model: Model, config: Config, distillation: float, data: DataSet, placement: Placement, cache: Cache
) -> TrainingSettings | None:
    """Chooses how this machine trains `model`, before the stages start, and logs the longest time it will take.

    Returns None if no stage trains or computes gradients. Steps are timed on a copy of the network before pruning, with
    a teacher if `distillation` > 0. The choice is kept in the cache: timing it again could change it, and with it the
    last bits of the result.
    """
    stages: list[str] = [stage for stage in ("train", "finetune") if stage in config.stages]
    images = {stage: getattr(config, stage).images for stage in stages}
    rounds, gradients = config.prune.rounds, config.prune.importance in NEED_GRADIENTS
    if "prune" in config.stages and (gradients or rounds > 1):
        images["prune"] = (rounds - 1) * config.prune.round_images
        images["prune"] += rounds * min(config.prune.images, len(data.train)) if gradients else 0
    if not images:
        return None
    finetunes = "finetune" in stages or rounds > 1
    plan = config.train if "train" in stages and not finetunes else config.finetune
    weight = distillation if finetunes else 0.0
    model = require(model, Trainable, "stages", next(iter(images)))
    # Without labels, batches have no targets, although those for gradients will get some, see `measurement.answers`.
    alone = not data.train.labelled
    teacher = teach(model, weight or 1.0, alone=alone) if weight or alone else None
    size = min(plan.batch // (plan.accumulate or 1), len(data.train))
    base = by_capability(config.threads, config.precision, placement)  # raises if the hardware lacks the precision
    parts = {
        **environment(), **model_key(model), "capabilities": base.as_dict(), "precision": config.precision,
        "teacher": weight, "labelled": data.train.labelled, "batch": size, "images": images,
        "processes": distributed.processes(),
    }  # fmt: skip

    def choose() -> dict[str, Any]:
        return _choose(model, data.train, size, teacher, config, sum(images.values()), placement).as_dict()

    settings = TrainingSettings.from_dict(cache.fetch_value("settings", parts, choose), placement)
    settings = replace(settings, compile=config.compile)
    log.info("training uses %s", settings)
    if settings.images_per_second:
        emulated = placement.kind == "cpu" and settings.format == "bf16" and native_bfloat16()[0] is False
        _announce(images, settings.images_per_second, slow_format=emulated)
    return settings


def _choose(
    model: Trainable, train: Split, size: int, teacher: Teacher | None, config: Config, total: int, placement: Placement
) -> TrainingSettings:
    """The settings for steps of `size` images, or of a half, a quarter, … of them if these do not fit into memory."""
    while True:
        with closing(batches(train, batch=size, seed=config.seed, epoch=0, augment=False)) as stream:
            step = _trial(model, next(stream), teacher, placement.device())
        try:
            return choose(config.precision, config.threads, size, step, total, placement)
        except RuntimeError as error:  # the training itself says which batch fits
            if not out_of_memory(error) or size == 1:
                raise
            size //= 2


def _trial(
    model: Trainable, batch: Batch, teacher: Teacher | None, device: torch.device
) -> Callable[[TrainingSettings], None]:
    """A forward and backward pass on a copy of the network, which changes neither weights nor random state."""
    net = copy.deepcopy(model.net).to(device)
    teacher = teacher and replace(teacher, net=teacher.net.to(device))
    batch = {key: value.to(device) for key, value in batch.items()}

    def step(settings: TrainingSettings) -> None:
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        net.to(memory_format=layout).train()
        placed = {**batch, "img": batch["img"].contiguous(memory_format=layout)}
        with torch.random.fork_rng(devices=[]):
            with autocast(device, settings.format):
                value = model.loss(net, placed, teacher).sum()
            value.backward()
        net.zero_grad(set_to_none=True)
        synchronise(device)

    return step


def _announce(images: Mapping[str, int], speed: float, *, slow_format: bool) -> None:
    """Logs the longest time that training takes, and how to shorten it if that is long.

    Args:
        images: {stage: image presentations}.
        speed: images per second.
        slow_format: training computes in bfloat16 on a CPU that emulates it.
    """
    minutes = {stage: count / speed / 60 for stage, count in images.items()}
    parts = ", ".join(f"{stage} {minutes[stage]:.1f} min ({images[stage]:,} images)" for stage in images)
    log.info("longest times: %s, at %.1f images/s measured on the network before pruning", parts, speed)
    if sum(minutes.values()) <= LONG:
        return
    remedies = [f"fewer {stage}.images" for stage in images] + ["a smaller model.imgsz"]
    remedies += ["precision=fp32 (this CPU emulates bfloat16)"] if slow_format else []
    log.warning(
        "this run trains for up to %.0f minutes (cached stages take none); to shorten it, set %s",
        sum(minutes.values()), ", ".join(remedies),
    )  # fmt: skip
