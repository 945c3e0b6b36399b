"""Training and fine-tuning of a model: its own loss, its teacher, its training images, and the training loop."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from compress.capabilities import LossScheduled, Model, Teacher, TorchModel, Trainable, require
from compress.config import Config, FinetuneConfig, NumberFormat
from compress.data import DataSet, Split, batches, supervised
from compress.errors import UserError
from compress.measurement.rows import flops_at
from compress.models import activation
from compress.pruning.importance import NEED_GRADIENTS
from compress.tasks import Batch
from compress.training import distributed
from compress.training.engine import fit
from compress.training.schedule import Schedule
from compress.training.settings import LONG, TrainingSettings, by_capability, choose, native_bfloat16

RATE = 0.0015  # peak learning rate for a network that was not pruned
VERSION = 4  # of what the stages train and finetune compute; part of their cache keys

log = logging.getLogger(__name__)


def check_training(model: Model, config: FinetuneConfig, data: DataSet, stage: str) -> None:
    """Raises UserError where the model cannot be trained, the training split does not fill one batch, or there is no
    activation function to replace."""
    activated(require(model, Trainable, "stages", stage), config, stage)
    batch = config.batch
    if batch % distributed.processes():
        remedy = f"set a multiple of {distributed.processes()}: each process takes an equal part"
        raise UserError(f"{stage}.batch", batch, remedy)
    if batch > len(data.train):
        raise UserError(f"{stage}.batch", batch, f"the training split has {len(data.train)} images")


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
) -> Trainable:
    """The model after the training that `config` describes; its network is trained in place, unless its activation
    functions are replaced first.

    Args:
        teacher: the model to distil from, with weight `config.distillation`: what `model` was pruned from, or another.
        stage: names the config's keys in errors, and the progress.
        folder: where an interrupted training leaves its state, and is taken up again.
        trained: it has been trained before, so that it goes on with the loss weights of a training's end.
        settings: how this machine computes; None: what its CPU's features suggest.
        flops_before: FLOPs of what the model was pruned from, where that is not the teacher.

    Raises:
        UserError: the learning rate is too high, or the model cannot be trained.
    """
    model = activated(require(model, Trainable, "stages", stage), config, stage)
    rate = config.learning_rate
    if rate is None:
        rate = learning_rate(model, teacher, flops_before)
    guide = teach(teacher, config.distillation) if teacher is not None and config.distillation else None
    state = folder / "training.safetensors"
    threads = torch.get_num_threads()
    settings = settings or by_capability(threads)
    torch.set_num_threads(settings.threads)
    try:
        plan = schedule(config, rate, settings)
        tuned = distributed.run_on_all_ranks(
            _fit, model, guide, train, plan, config.augment, seed, stage, state, trained
        )
    except FloatingPointError as error:
        state.unlink(missing_ok=True)
        raise UserError(f"{stage}.learning_rate", rate, f"{error}: set a lower one") from error
    finally:
        torch.set_num_threads(threads)
    state.unlink(missing_ok=True)
    return model.with_net(tuned)


def activated(model: Trainable, config: FinetuneConfig, stage: str) -> Trainable:
    """The model with the activation functions that `config` asks for, in a network of its own.

    Raises:
        UserError: it has none that could be replaced.
    """
    wanted = config.activation and config.activation.value
    if wanted in (None, activation.of(model.net)):
        return model
    net = copy.deepcopy(model.net)
    if activation.swap(net, wanted) == 0:
        remedy = "the network has no activation modules (torch.nn.SiLU and its like) to replace: set null"
        raise UserError(f"{stage}.activation", wanted, remedy)
    return model.with_net(net)


def _fit(
    model: Trainable,
    guide: Teacher | None,
    train: Split,
    plan: Schedule,
    augment: bool,
    seed: int,
    stage: str,
    state: Path,
    trained: bool,
) -> nn.Module:
    task = supervised(train)
    load = functools.partial(batches, train, batch=plan.batch, seed=seed, augment=augment)
    return fit(
        model.net,
        functools.partial(model.loss, teacher=guide),
        lambda epoch: load(epoch=epoch),
        plan,
        seed=seed,
        checkpoint=state,
        progress=stage,
        on_step=functools.partial(_schedule, model, trained),
        shard=task.shard,
    )


def _schedule(model: Trainable, trained: bool, progress: float) -> None:
    if isinstance(model, LossScheduled):
        model.schedule_loss(model.net, 1.0 if trained else progress)


def learning_rate(model: Model, reference: Model | None, flops_before: int | None = None) -> float:
    """Peak rate for what pruning has left: the more it took the more there is to learn anew, so RATE is multiplied by
    FLOPs before over FLOPs after.

    Tried on drone_nano with 4,000 images and a teacher, mAP50-95 at 30 % of the FLOPs: 0.397 at 0.001, 0.469 at 0.003,
    0.480 at 0.006, 0.462 at 0.01; at 50 % 0.625 at 0.001 and at 0.003; at 15 % 0.173 at 0.003, 0.181 at 0.007.
    """
    if reference is None and flops_before is None:
        return RATE
    if flops_before is None:
        assert reference is not None
        flops_before = flops_at(reference, reference.imgsz)
    return RATE * flops_before / flops_at(model, model.imgsz)


def teach(model: Model, weight: float) -> Teacher:
    """A copy of the model's network to learn from; `weight` is that of its answers beside the labels'."""
    net = copy.deepcopy(require(model, TorchModel, "finetune.teacher", "…").net).eval().requires_grad_(False)
    return Teacher(net.to(memory_format=torch.channels_last), weight)


def schedule(config: FinetuneConfig, rate: float, settings: TrainingSettings) -> Schedule:
    """The training loop's schedule for a config; `rate` is the peak learning rate."""
    return Schedule(
        images=config.images,
        batch=config.batch,
        learning_rate=rate,
        optimizer=config.optimizer.value,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        warmup=config.warmup,
        ema=config.ema,
        bfloat16=settings.bfloat16 if config.bfloat16 is None else config.bfloat16,
        channels_last=settings.channels_last,
    )


def prepare(model: Model, config: Config, distillation: float, data: DataSet) -> TrainingSettings | None:
    """How this machine will train `model`, decided before the stages start; logs how long it will take at most.

    None where no stage trains or takes gradients. The network stays as it is. Times are of the network before pruning,
    with a teacher where there is one (`distillation` > 0).
    """
    stages: list[str] = [stage for stage in ("train", "finetune") if stage in config.stages]
    images = {stage: getattr(config, stage).images for stage in stages}
    if "prune" in config.stages and config.prune.importance in NEED_GRADIENTS:
        images["prune"] = config.prune.rounds * min(config.prune.images, len(data.train))
        images["prune"] += (config.prune.rounds - 1) * config.prune.round_images
    if not images:
        return None
    plan = config.finetune if "finetune" in stages else config.train
    weight = distillation if "finetune" in stages else 0.0
    model = require(model, Trainable, "stages", next(iter(images)))
    size = min(plan.batch, len(data.train))
    stream = batches(data.train, batch=size, seed=config.seed, epoch=0, augment=False)
    step = _trial(model, next(stream), teach(model, weight) if weight else None)
    stream.close()
    settings = choose(config.precision, config.threads, size, step, sum(images.values()))
    for stage in stages:
        if (given := getattr(config, stage).bfloat16) is not None:
            log.warning("%s.bfloat16 is deprecated: set precision=%s", stage, "bf16" if given else "fp32")
    log.info("training computes in %s", settings)
    trained = settings  # but for the deprecated key, which holds for the training and not for gradients
    if plan.bfloat16 is not None and plan.bfloat16 != settings.bfloat16:
        asked = NumberFormat.bf16 if plan.bfloat16 else NumberFormat.fp32
        trained = choose(asked, config.threads, size, step, sum(images.values()))
    if trained.images_per_second:
        _announce(images, trained.images_per_second, slow_format=trained.bfloat16 and native_bfloat16()[0] is False)
    return settings


def _trial(model: Trainable, batch: Batch, guide: Teacher | None) -> Callable[[TrainingSettings], None]:
    """One step forward and backward on a copy of the network; neither it nor any random state is changed."""
    net = copy.deepcopy(model.net)

    def step(settings: TrainingSettings) -> None:
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        net.to(memory_format=layout).train()
        placed = {**batch, "img": batch["img"].contiguous(memory_format=layout)}
        with torch.random.fork_rng(devices=[]):
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
                value = model.loss(net, placed, guide).sum()
            value.backward()
        net.zero_grad(set_to_none=True)

    return step


def _announce(images: Mapping[str, int], speed: float, *, slow_format: bool) -> None:
    """Says how long training takes at most, and what shortens it where that is long.

    Args:
        images: {stage: image presentations}.
        speed: images a second.
        slow_format: training computes in bfloat16 on a CPU that emulates it.
    """
    minutes = {stage: count / speed / 60 for stage, count in images.items()}
    parts = ", ".join(f"{stage} {minutes[stage]:.1f} min ({images[stage]:,} images)" for stage in images)
    log.info("at most: %s, at %.1f images/s measured on the network before pruning", parts, speed)
    if sum(minutes.values()) <= LONG:
        return
    ways = [f"fewer {stage}.images" for stage in images] + ["a smaller model.imgsz"]
    ways += ["precision=fp32 (this CPU emulates bfloat16)"] if slow_format else []
    log.warning(
        "this run trains for up to %.0f minutes (stages that are cached take none); what shortens it: %s",
        sum(minutes.values()), ", ".join(ways),
    )  # fmt: skip
