"""A resumable training loop for any network: baseline training and fine-tuning after pruning."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from compress import interruption
from compress.errors import UserError, named
from compress.tasks import Batch
from compress.training import curve, distributed
from compress.training.memory import Memory, out_of_memory
from compress.training.placement import CPU
from compress.training.schedule import Schedule
from compress.training.state import TrainingState, Unusable

SAVE_EVERY = 60.0  # seconds between checkpoints
LOG_EVERY = 30.0  # seconds between log lines if no progress bar is shown
SLOW_LOADING = 0.2  # fraction of the time waiting for batches, from which on the log says so

log = logging.getLogger(__name__)


class Stream(Iterator[Batch], Protocol):
    """Parts of successive batches, without end."""

    waited: float  # seconds spent waiting for batches so far

    def close(self) -> None: ...


class Batches(Protocol):
    """Training batches, in an order that depends only on the numbers of epoch and batch."""

    def __len__(self) -> int:
        """Batches per epoch."""
        ...

    def start(self, epoch: int, index: int, part: tuple[int, int], accumulate: int) -> Stream:
        """Starts with batch `index` of `epoch`. Of every batch, yields part k of n equal parts, for `part` = (k, n), in
        `accumulate` equal slices one after another."""
        ...


def fit(
    net: nn.Module,
    loss: Callable[[nn.Module, Batch], Tensor],
    batches: Batches,
    schedule: Schedule,
    *,
    seed: int,
    device: torch.device = CPU,
    accumulate: int | None = 1,
    checkpoint: Path | None = None,
    metrics: curve.Curve | None = None,
    label: str = "finetune",
    on_step: Callable[[float], None] | None = None,
    on_epoch: Callable[[int, nn.Module, float], None] | None = None,
) -> nn.Module:
    """Trains `net` in place, on `device`. Returns the exponential moving average of its weights, or a copy of `net` if
    the schedule has none, on the CPU in eval mode, float32 and contiguous memory format.

    The state is saved to `checkpoint` every SAVE_EVERY seconds, on KeyboardInterrupt, and if `batches` raises
    UserError. A later call
    resumes from it, or renames it with a warning and starts afresh if it is damaged or from another run. On the CPU the
    resumed training ends with the weights of an undisturbed one, bit for bit.

    Inside `distributed.run_on_all_ranks` each rank trains on its part of every batch, and all return the same weights.
    All ranks draw the same random numbers, so one checkpoint is enough. Only rank 0 writes it.

    Args:
        loss: `loss(net, batch)` returns a tensor; the sum of its elements is minimised. If a batch is computed in
            parts, by several ranks or one after another, the sum must be a mean over them.
        metrics: gets a point of the curve after each step that is `curve.due`: the means of `loss` and, if it has two
            elements, of `task_loss` and `distillation_loss` over the steps since the last point; `learning_rate` of the
            step; `images_per_second`.
        accumulate: number of parts of a rank's batch that are computed one after another, to save memory. None: the
            smallest power of two that fits into memory.
        on_step: `on_step(fraction)` runs before each step with the fraction of the training done, 0 to 1, for losses
            whose weights change during training. It must depend on `fraction` only, because its state is not saved.
        on_epoch: `on_epoch(epoch, average, loss)` runs on rank 0 after each epoch, also after an incomplete last one,
            with the last loss. It must not change weights or buffers.
        label: prefix of keys in errors, name of the progress bar, and prefix of log lines.

    Raises:
        FloatingPointError: a loss or gradient is not finite.
        UserError: from `batches`; the memory is too small; the ranks read different checkpoints; compilation fails.
    """
    layout = torch.channels_last if schedule.channels_last else torch.preserve_format
    net.to(device).to(memory_format=layout).train()
    run = TrainingState(net, schedule, seed, device)
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
        remedy = "the processes read different checkpoints: use a folder that all of them share"
        raise UserError(f"{label} state", checkpoint, remedy)
    if schedule.compile:
        net.compile()
    is_first = distributed.rank() == 0
    metrics = metrics or curve.Curve()
    metrics.resume(run.step)
    memory = Memory(schedule.batch // distributed.world(), accumulate, label, device)

    def save() -> float:
        if checkpoint is not None and is_first:
            run.check()
            run.save(checkpoint)
        return time.monotonic()

    def stream_from_here() -> Stream:
        part = (distributed.rank(), distributed.world())
        return batches.start(*divmod(run.step, len(batches)), part, memory.parts)

    bar = tqdm(  # disable=None: drawn on a terminal only
        total=schedule.steps * schedule.batch, initial=run.step * schedule.batch,
        desc=label, unit="img", smoothing=0.05, dynamic_ncols=True, disable=None if is_first else True,
    )  # fmt: skip
    saved, progress = time.monotonic(), _Progress(label, schedule, run.step)
    stream = stream_from_here()
    run.restore_random_state()  # after the first workers have been started, which may draw random numbers
    try:
        while run.step < schedule.steps:
            if on_step is not None:
                on_step(run.step / schedule.steps)
            try:
                batch = [next(stream) for _ in range(memory.parts)]
            except UserError:  # in the data; before a forward pass has changed running statistics
                save()
                raise
            try:
                with interruption.delayed():
                    value = run.gradients(batch, loss)
                    memory.check_fit()
                    run.update(value)
                    if due := curve.due(run.step, schedule.steps):
                        run.check()
                        values = {**run.mean_losses(), "learning_rate": schedule.rate(run.step - 1)}
                        point = metrics.write(run.step, values, schedule.batch)
            except RuntimeError as error:
                if schedule.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                    raise UserError(
                        "compile", True, f"the network cannot be compiled ({named(error)[:300]})"
                    ) from error
                if not out_of_memory(error):
                    raise
                stream.close()
                memory.split(error)
                stream = stream_from_here()
                continue
            bar.update(schedule.batch)
            if due:
                metrics.report(run.step, point)
            if on_epoch is not None and is_first and (run.step == schedule.steps or run.step % len(batches) == 0):
                run.check()
                on_epoch((run.step - 1) // len(batches), run.average.eval(), run.loss)
                net.train()  # without EMA, `run.average` is `net`
            if bar.disable and is_first:
                progress.log(run, stream.waited)
            if time.monotonic() - saved >= SAVE_EVERY:
                saved = save()
        run.check()
        save()
    except KeyboardInterrupt:
        with interruption.delayed():
            save()
        raise
    finally:
        bar.close()
        stream.close()
    result = run.average if schedule.ema else copy.deepcopy(net)
    # The average is frozen while it is updated.
    for averaged, trained in zip(result.parameters(), net.parameters(), strict=True):
        averaged.requires_grad_(trained.requires_grad)
    net.cpu()
    return result.float().cpu().to(memory_format=torch.contiguous_format).eval()


class _Progress:
    """Log lines about a training, for runs without a progress bar."""

    def __init__(self, label: str, schedule: Schedule, step: int) -> None:
        self._label, self._schedule, self._first_step = label, schedule, step
        self._start = self._logged = time.monotonic()
        self._waited = 0.0  # seconds at the last line

    def log(self, run: TrainingState, waited: float) -> None:
        """Writes a line if the last one is LOG_EVERY seconds old. `waited`: seconds for batches since the start."""
        now, plan = time.monotonic(), self._schedule
        if now - self._logged < LOG_EVERY:
            return
        speed = (run.step - self._first_step) * plan.batch / (now - self._start)
        minutes = (plan.steps - run.step) * plan.batch / speed / 60
        log.info(
            "%s: step %d of %d, loss %.4g, %.1f images/s, %.1f min left",
            self._label, run.step, plan.steps, run.loss, speed, minutes,
        )  # fmt: skip
        fraction = (waited - self._waited) / (now - self._logged)
        if fraction > SLOW_LOADING:
            log.warning(
                "%s: loading images is the limit: %.0f %% of the time is spent waiting for them; set more data.workers",
                self._label, 100 * fraction,
            )  # fmt: skip
        self._logged, self._waited = now, waited
