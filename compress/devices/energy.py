"""Energy of one inference, in two ways that share no assumption.

Power x time: the power of the whole board under load, times the latency. It contains memory, idle parts and losses of
the supply, and is what a battery delivers.

Operations and bytes: picojoules per multiply-accumulate and per byte, as published for a 45 nm process (Horowitz,
"Computing's energy problem", ISSCC 2014, figure 1.1.9), times the counted work. It contains no idle power, no control
logic and no losses, so it is no estimate of what a board needs; newer processes need less for arithmetic, and hardly
less for external memory. `low` reads weights from external memory and keeps activations on the chip; `high` moves every
byte of every operator through external memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from compress.config import HOST, BudgetConfig, DeviceConfig
from compress.errors import UserError

PJ_PER_MAC = {"fp32": 3.7 + 0.9, "fp16": 1.1 + 0.4, "int8": 0.2 + 0.1}  # multiply, and add (INT8: into 32 bits)
PJ_PER_FLOP = {"fp32": 0.9, "fp16": 0.4, "int8": 0.1}  # arithmetic outside of products, as additions
PJ_PER_BYTE_ON_CHIP = 100 / 8  # of an SRAM of 1 MB
PJ_PER_BYTE_EXTERNAL = (1300 / 8, 2600 / 8)  # of DRAM: lowest and highest
BYTES = {"fp32": 1.0, "fp16": 0.5, "int8": 0.25}  # of a number relative to float32


@dataclass(frozen=True)
class Range:
    """Energy of one inference in millijoules."""

    low: float
    high: float


def of_work(macs: int, other_flops: int, bytes_moved: int, weight_bytes: int, precision: str) -> Range:
    """Energy by operations and bytes. Bytes are those for float32, `bytes_moved` with the weights in them."""
    arithmetic = macs * PJ_PER_MAC[precision] + other_flops * PJ_PER_FLOP[precision]
    weights, moved = weight_bytes * BYTES[precision], bytes_moved * BYTES[precision]
    low_byte, high_byte = PJ_PER_BYTE_EXTERNAL
    low = arithmetic + weights * low_byte + (moved - weights) * PJ_PER_BYTE_ON_CHIP
    return Range(low / 1e9, (arithmetic + moved * high_byte) / 1e9)


def check(budget: BudgetConfig, device: DeviceConfig, *, counters: bool) -> None:
    """Raises UserError if `budget.energy_mj` can never be judged: this machine has no readable energy `counters`, or
    the profile of the device has no power."""
    if budget.energy_mj is None:
        return
    if device.name == HOST and not counters:
        remedy = "no energy counter of this machine can be read (RAPL needs root, and no virtual machine has it): set "
        raise UserError("budget.energy_mj", budget.energy_mj, f"{remedy}device=NAME with loaded_watts, or null")
    if device.name != HOST and device.loaded_watts is None:
        remedy = (
            f"the power of {device.name} is not known: set device.loaded_watts={{value: WATTS, source: TEXT}}, or null"
        )
        raise UserError("budget.energy_mj", budget.energy_mj, remedy)
