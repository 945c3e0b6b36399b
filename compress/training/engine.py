"""A resumable training loop for any network: baseline training and fine-tuning after pruning."""

from __future__ import annotations

import copy
import json
import logging
import math
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn
from tqdm import tqdm

from compress import atomic
from compress.digest import digest
from compress.tasks import Batch
from compress.training import distributed
from compress.training.schedule import Schedule

SAVE_EVERY = 90.0  # seconds between checkpoints inside an epoch
STATE = ("step", "epoch", "seen", "total")  # counters of `_Run` in a checkpoint
LOG_EVERY = 30.0  # seconds between log lines if no progress bar is shown

log = logging.getLogger(__name__)


def by_image(batch: Batch, rank: int, world: int) -> Batch:
    """Returns part `rank` of `world` equal parts of a batch whose entries have one row per image. Left-over images are
    dropped."""
    count = len(batch["img"]) // world
    return {key: value[rank * count : (rank + 1) * count] for key, value in batch.items()}


def fit(
    net: nn.Module,
    loss: Callable[[nn.Module, Batch], Tensor],
    batches: Callable[[int], Iterator[Batch]],
    schedule: Schedule,
    *,
    seed: int,
    checkpoint: Path | None = None,
    label: str = "finetune",
    on_epoch: Callable[[int, nn.Module, float], None] | None = None,
    on_step: Callable[[float], None] | None = None,
    shard: Callable[[Batch, int, int], Batch] = by_image,
) -> nn.Module:
    """Trains `net` in place. Returns the exponential moving average of its weights, or a copy of `net` if the schedule
    has none, in eval mode, float32 and contiguous memory format.

    The state is saved to `checkpoint` every SAVE_EVERY seconds, after each epoch and on KeyboardInterrupt. A later call
    resumes from it, or renames it with a warning and starts afresh if it is damaged or from another run.

    Inside `distributed.run_on_all_ranks` each rank trains on its shard of every batch, and all return the same weights.
    All ranks draw the same random numbers, so one checkpoint is enough. Only rank 0 writes it and calls `on_epoch`,
    which therefore must not use collective operations.

    Args:
        loss: `loss(net, batch)` returns a tensor; the sum of its elements is minimised. With several ranks each element
            must be a mean over the images of the batch.
        batches: `batches(epoch)` yields an epoch's batches and must depend on the epoch number only. On resuming inside
            an epoch, `skip(n)` of the iterator is called if it exists; otherwise n batches are drawn and dropped.
        on_epoch: `on_epoch(epoch, average, mean_loss)` runs after each epoch, also after an incomplete last one. If a
            training was interrupted during `on_epoch`, resuming calls it again. It must not change weights or buffers.
        on_step: `on_step(fraction)` runs before each step with the fraction of the training done, 0 to 1, for losses
            whose weights change during training. It must depend on `fraction` only, because its state is not saved.
        label: name of the progress bar and prefix of log lines.
        shard: `shard(batch, rank, world)` returns the part of a batch for one rank.

    Raises:
        FloatingPointError: a loss or gradient is not finite.
        ValueError: an epoch has no batch, or the ranks read different checkpoints.
    """
    device = next(net.parameters()).device
    layout = torch.channels_last if schedule.channels_last else torch.preserve_format
    net.to(memory_format=layout).train()
    run = _Run(net, schedule, seed)
    torch.manual_seed(seed)
    if checkpoint is not None and checkpoint.exists():
        try:
            run.load(checkpoint)
            log.info("%s: resuming at step %d of %d", label, run.step, schedule.steps)
        except Unusable as error:
            renamed = checkpoint.with_suffix(".unusable")
            log.warning("%s: %s %s: renamed to %s, starting afresh", label, checkpoint, error, renamed.name)
            if distributed.rank() == 0:
                checkpoint.replace(renamed)
    if not distributed.agree(run.step):
        raise ValueError(f"not all processes read the same checkpoint {checkpoint}: use a shared file system")
    is_first = distributed.rank() == 0

    def save() -> float:
        if checkpoint is not None and is_first:
            run.save(checkpoint)
        return time.monotonic()

    bar = tqdm(  # disable=None: drawn on a terminal only
        total=schedule.steps * schedule.batch, initial=run.step * schedule.batch,
        desc=label, unit="img", smoothing=0.05, dynamic_ncols=True, disable=None if is_first else True,
    )  # fmt: skip
    saved = logged = start = time.monotonic()
    start_step = run.step
    try:
        while run.step < schedule.steps or run.seen:  # `seen` after the last step: `on_epoch` was interrupted
            stream = iter(batches(run.epoch))
            if run.seen and hasattr(stream, "skip"):
                stream.skip(run.seen)
            else:
                for _ in range(run.seen):
                    next(stream, None)
            if run.rng is not None:  # set after skipping, which may draw random numbers
                torch.set_rng_state(run.rng)
                run.rng = None
            while run.step < schedule.steps and (batch := next(stream, None)) is not None:
                if on_step is not None:
                    on_step(run.step / schedule.steps)
                with _uninterrupted():
                    if distributed.world() > 1:
                        batch = shard(batch, distributed.rank(), distributed.world())
                    batch = {key: _place(item, device, schedule.channels_last) for key, item in batch.items()}
                    with torch.autocast(device.type, torch.bfloat16, enabled=schedule.bfloat16):
                        batch_loss = loss(net, batch).sum()
                    run.update(batch_loss)
                bar.set_postfix_str(f"loss {run.mean:.4g}", refresh=False)
                bar.update(schedule.batch)
                now = time.monotonic()
                if bar.disable and now - logged >= LOG_EVERY:
                    speed = (run.step - start_step) * schedule.batch / (now - start)
                    log.info(
                        "%s: step %d of %d, epoch %d, loss %.4g, %.1f images/s, %.1f min left",
                        label, run.step, schedule.steps, run.epoch, run.mean, speed,
                        (schedule.steps - run.step) * schedule.batch / speed / 60,
                    )  # fmt: skip
                    logged = now
                if now - saved >= SAVE_EVERY:
                    saved = save()
            if not run.seen:
                raise ValueError(f"batches({run.epoch}) yielded no batch")
            if on_epoch is not None and is_first:
                save()  # validation may take long
                on_epoch(run.epoch, run.average.eval(), run.mean)
                net.train()  # without EMA, `run.average` is `net`
            run.epoch, run.seen, run.total = run.epoch + 1, 0, 0.0
            saved = save()
    except KeyboardInterrupt:
        save()
        raise
    finally:
        bar.close()
    result = run.average if schedule.ema else copy.deepcopy(net)
    # The average is frozen while it is updated.
    for averaged, trained in zip(result.parameters(), net.parameters(), strict=True):
        averaged.requires_grad_(trained.requires_grad)
    return result.float().to(memory_format=torch.contiguous_format).eval()


class Unusable(Exception):
    """A saved state from which training cannot resume."""


class _Run:
    """State of a training run, with saving and loading."""

    def __init__(self, net: nn.Module, schedule: Schedule, seed: int) -> None:
        self.net, self.schedule = net, schedule
        self.step = self.epoch = self.seen = 0  # seen: batches of the current epoch
        self.total = 0.0  # sum of this epoch's losses
        self.rng: Tensor | None = None  # random state of a checkpoint, until `fit` sets it
        self.average = copy.deepcopy(net).eval().requires_grad_(False) if schedule.ema else net
        self.average_and_current = list(zip(self.average.state_dict().values(), net.state_dict().values(), strict=True))
        self.params = [p for p in net.parameters() if p.requires_grad]
        self.buffers = [buffer for buffer in net.buffers() if buffer.is_floating_point()]
        groups = [
            {"params": [p for p in self.params if p.ndim > 1], "weight_decay": schedule.weight_decay},
            {"params": [p for p in self.params if p.ndim <= 1], "weight_decay": 0.0},
        ]
        rate, beta = schedule.learning_rate, schedule.momentum
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(groups, rate, beta, nesterov=beta > 0, fused=True)
            if schedule.optimizer == "sgd"
            else torch.optim.AdamW(groups, rate, (beta, 0.999), fused=True)
        )
        shapes = {name: list(value.shape) for name, value in net.state_dict().items()}
        self.identity = digest([asdict(schedule), seed, shapes])

    @property
    def mean(self) -> float:
        """Mean loss of this epoch so far."""
        return self.total / max(1, self.seen)

    def update(self, loss: Tensor) -> None:
        """Backpropagates `loss`, averages gradients over the ranks, takes one optimizer step and updates the average.

        Raises:
            FloatingPointError: loss or gradient is not finite.
        """
        rate = self.schedule.rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        value = float(
            distributed.average(loss.detach(), self.params, self.buffers)
        )  # also averages gradients and buffers
        norm = float(nn.utils.clip_grad_norm_(self.params, self.schedule.clip or math.inf))
        if not (math.isfinite(value) and math.isfinite(norm)):
            quantity = "gradient" if math.isfinite(value) else f"loss ({value})"
            raise FloatingPointError(f"{quantity} not finite at step {self.step}, learning rate {rate:.3g}")
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step, self.seen, self.total = self.step + 1, self.seen + 1, self.total + value
        if self.schedule.ema:
            self._update_average()

    @torch.no_grad()
    def _update_average(self) -> None:
        fraction = 1 - self.schedule.decay(self.step)
        for average, current in self.average_and_current:
            if average.is_floating_point():  # including the running statistics of batch norms
                average.lerp_(current, fraction)
            else:  # counters
                average.copy_(current)

    def save(self, path: Path) -> None:
        """Writes the state atomically."""
        tensors = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        if self.schedule.ema:
            tensors |= {f"ema.{k}": v for k, v in self.average.state_dict().items()}
        for index, param in enumerate(self.params):
            for key, value in self.optimizer.state.get(param, {}).items():
                if value is not None:
                    tensors[f"optimizer.{index}.{key}"] = value
        tensors["rng"] = torch.get_rng_state() if self.rng is None else self.rng
        # safetensors accepts neither tensors that share memory nor channels-last ones.
        tensors = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
        state = {field: getattr(self, field) for field in STATE}
        atomic.write(path, serialise(tensors, {"identity": self.identity, "state": json.dumps(state)}))

    def load(self, path: Path) -> None:
        """Restores the state in `path`; raises Unusable and changes nothing if it is damaged or from another run."""
        tensors, state = self._read(path)
        for prefix, target in self._networks().items():
            target.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                param = self.params[int(index)]
                if value.shape == param.shape:  # in the memory layout of the parameter, as the fused optimizer needs it
                    value = torch.empty_like(param, dtype=value.dtype, requires_grad=False).copy_(value)
                self.optimizer.state[param][name] = value.to(param.device)
        for field in STATE:
            setattr(self, field, state[field])
        self.rng = tensors["rng"]

    def _networks(self) -> dict[str, nn.Module]:
        """{prefix of tensor names in a checkpoint: the network that they belong to}."""
        return {"net.": self.net, **({"ema.": self.average} if self.schedule.ema else {})}

    def _read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Reads and checks a checkpoint: its tensors and counters. Raises Unusable."""
        try:
            with safe_open(path, "pt") as file:
                meta = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (`file` is not a mapping)
            state = json.loads(meta.get("state", ""))
        except (OSError, SafetensorError, ValueError) as error:
            raise Unusable(f"cannot be read ({error})") from error
        if meta.get("identity") != self.identity:
            raise Unusable("belongs to another network, schedule or seed")
        expected = {
            f"{prefix}{name}": value
            for prefix, net in self._networks().items()
            for name, value in net.state_dict().items()
        }
        shapes_match = all(name in tensors and tensors[name].shape == value.shape for name, value in expected.items())
        has_counters = isinstance(state, dict) and all(isinstance(state.get(field), int | float) for field in STATE)
        others = [name for name in tensors if name not in expected and name != "rng"]
        names_valid = all(re.fullmatch(r"optimizer\.\d+\.\w+", name) for name in others)
        names_valid = names_valid and all(int(name.split(".")[1]) < len(self.params) for name in others)
        rng = tensors.get("rng")
        rng_valid = rng is not None and rng.dtype == torch.uint8
        if not (shapes_match and has_counters and names_valid and rng_valid):
            raise Unusable("does not contain the expected tensors and counters")
        return tensors, state


def _place(value: Any, device: torch.device, channels_last: bool) -> Any:
    """Moves a batch entry to `device`; 4-D tensors (images) become channels-last if the network is."""
    if not isinstance(value, Tensor):
        return value
    value = value.to(device, non_blocking=True)
    return value.contiguous(memory_format=torch.channels_last) if channels_last and value.ndim == 4 else value


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delays Ctrl-C to the end of the step, so that the saved state is consistent."""
    if threading.current_thread() is not threading.main_thread() or distributed.rank() > 0:
        yield  # only the main thread receives signals, and only rank 0 decides when to stop
        return
    caught: list[int] = []
    previous_handler = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous_handler)
    if caught:
        raise KeyboardInterrupt
