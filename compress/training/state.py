"""The state of a training: network, average of its weights, optimizer and random generators, saved without pickle."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from compress import atomic
from compress.digest import digest
from compress.tasks import Batch
from compress.training import distributed
from compress.training.precision import autocast
from compress.training.schedule import Schedule

CHECK_EVERY = 20  # steps between checks for NaN on an accelerator, since each waits for it to finish its work
FUSED = ("cpu", "cuda")  # device types with fused optimizers
LOSS_PARTS = ("task_loss", "distillation_loss")  # of a loss with two elements


class Unusable(Exception):
    """A saved state from which training cannot resume."""


class TrainingState:
    """State of a training run, with saving and loading."""

    def __init__(self, net: nn.Module, schedule: Schedule, seed: int, device: torch.device) -> None:
        self.net, self.schedule, self.device = net, schedule, device
        self.step = 0
        self.loss = math.nan  # of the last step that was checked
        self.unchecked: list[Tensor] = []  # parts of the loss and norm of the gradient, by step
        self.losses: list[list[float]] = []  # parts of the loss, by step since the last call of `mean_losses`
        self.random_states: dict[str, Tensor] = {}  # of a checkpoint, until `restore_random_state`
        self.average = copy.deepcopy(net).eval().requires_grad_(False) if schedule.ema else net
        pairs = list(zip(self.average.state_dict().values(), net.state_dict().values(), strict=True))
        self.floats = [pair for pair in pairs if pair[0].is_floating_point()]  # with running statistics of batch norms
        self.counters = [pair for pair in pairs if not pair[0].is_floating_point()]
        self.params = [p for p in net.parameters() if p.requires_grad]
        self.buffers = [buffer for buffer in net.buffers() if buffer.is_floating_point()]
        groups = [
            {"params": [p for p in self.params if p.ndim > 1], "weight_decay": schedule.weight_decay},
            {"params": [p for p in self.params if p.ndim <= 1], "weight_decay": 0.0},
        ]
        rate, beta = schedule.learning_rate, schedule.momentum
        fused = device.type in FUSED
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(groups, rate, beta, nesterov=beta > 0, fused=fused)
            if schedule.optimizer == "sgd"
            else torch.optim.AdamW(groups, rate, (beta, 0.999), fused=fused)
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=schedule.format == "fp16")
        shapes = {name: list(value.shape) for name, value in net.state_dict().items()}
        self.identity = digest([asdict(schedule), seed, shapes])

    def gradients(self, parts: Sequence[Batch], loss: Callable[[nn.Module, Batch], Tensor]) -> Tensor:
        """Computes the gradients of a batch, given in equal parts. Returns the loss: a scalar, or its parts."""
        self.optimizer.zero_grad(set_to_none=True)
        total: Tensor | float = 0.0
        for part in parts:
            batch = {key: _place(item, self.device, self.schedule.channels_last) for key, item in part.items()}
            with autocast(self.device, self.schedule.format):
                value = loss(self.net, batch) / len(parts)
            self.scaler.scale(value.sum()).backward()
            total = total + value.detach()
        assert isinstance(total, Tensor)
        return total

    def update(self, loss: Tensor) -> None:
        """Averages gradients over the ranks, takes one optimizer step and updates the average.

        Raises:
            FloatingPointError: loss or gradient is not finite. On an accelerator, up to CHECK_EVERY steps later.
        """
        loss = distributed.average(loss, self.params, self.buffers)  # also averages gradients and buffers
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.params, self.schedule.clip or math.inf)
        self.unchecked.append(torch.cat([loss.float().flatten(), norm.float().flatten()]))
        if self.device.type == "cpu" or len(self.unchecked) >= CHECK_EVERY:
            self.check()
        rate = self.schedule.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.scaler.step(self.optimizer)  # skips the step if float16 gradients have overflowed
        self.scaler.update()
        self.step += 1
        if self.schedule.ema:
            self._update_average()

    def check(self) -> None:
        """Raises FloatingPointError if a loss or gradient since the last check is not finite."""
        if not self.unchecked:
            return
        first = self.step + 1 - len(self.unchecked)
        values = torch.stack(self.unchecked).cpu().tolist()
        self.unchecked.clear()
        for step, (*parts, norm) in enumerate(values, first):
            loss = self.loss = sum(parts)
            # An overflow of scaled float16 gradients is expected, and lowers the scale.
            if not math.isfinite(loss) or not (math.isfinite(norm) or self.scaler.is_enabled()):
                quantity = "gradient" if math.isfinite(loss) else f"loss ({loss})"
                rate = self.schedule.rate(step)
                raise FloatingPointError(f"{quantity} not finite at step {step}, learning rate {rate:.3g}")
            self.losses.append(parts)

    def mean_losses(self) -> dict[str, float]:
        """The loss and, if it has two, its parts: means over the steps since the last call, which `check` must have
        checked."""
        parts = [sum(column) / len(self.losses) for column in zip(*self.losses)]
        self.losses.clear()
        return {"loss": sum(parts), **(dict(zip(LOSS_PARTS, parts)) if len(parts) == len(LOSS_PARTS) else {})}

    def restore_random_state(self) -> None:
        """Sets the random state of the checkpoint that was loaded, if any."""
        for name, state in self.random_states.items():
            torch.set_rng_state(state) if name == "rng" else torch.get_device_module(self.device).set_rng_state(state)
        self.random_states = {}

    @torch.no_grad()
    def _update_average(self) -> None:
        averages, current = zip(*self.floats)
        torch._foreach_lerp_(averages, current, 1 - self.schedule.decay(self.step))
        for average, counter in self.counters:
            average.copy_(counter)

    def save(self, path: Path) -> None:
        """Writes the state atomically."""
        tensors = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        if self.schedule.ema:
            tensors |= {f"ema.{k}": v for k, v in self.average.state_dict().items()}
        for index, param in enumerate(self.params):
            for key, value in self.optimizer.state.get(param, {}).items():
                if value is not None:
                    tensors[f"optimizer.{index}.{key}"] = value
        tensors |= self.random_states or _random_states(self.device)
        # safetensors accepts neither tensors that share memory nor channels-last ones.
        tensors = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
        state = {"step": self.step, "losses": self.losses, "scaler": self.scaler.state_dict()}
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
        self.step, self.losses = state["step"], state.get("losses", [])
        self.random_states = {name: tensors[name] for name in _random_states(self.device)}
        self.scaler.load_state_dict(state["scaler"])

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
        is_valid = isinstance(state, dict) and type(state.get("step")) is int
        random = _random_states(self.device)
        others = [name for name in tensors if name not in expected and name not in random]
        names_valid = all(re.fullmatch(r"optimizer\.\d+\.\w+", name) for name in others)
        names_valid = names_valid and all(int(name.split(".")[1]) < len(self.params) for name in others)
        rng_valid = all(name in tensors and tensors[name].dtype == torch.uint8 for name in random)
        is_valid = (
            is_valid
            and isinstance(scaler := state.get("scaler"), dict)
            and scaler.keys() == self.scaler.state_dict().keys()
        )
        if not (shapes_match and is_valid and names_valid and rng_valid):
            raise Unusable("does not contain the expected tensors and counters")
        return tensors, state


def _random_states(device: torch.device) -> dict[str, Tensor]:
    """{name in a checkpoint: state} of the random generators that a training on `device` draws from."""
    states = {"rng": torch.get_rng_state()}
    if device.type in ("cuda", "mps"):
        states["rng.device"] = torch.get_device_module(device).get_rng_state()
    return states


def _place(value: Any, device: torch.device, channels_last: bool) -> Any:
    """Moves a batch entry to `device`; 4-D tensors (images) become channels-last if the network is."""
    if not isinstance(value, Tensor):
        return value
    value = value.to(device, non_blocking=True)
    return value.contiguous(memory_format=torch.channels_last) if channels_last and value.ndim == 4 else value
