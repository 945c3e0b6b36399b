"""The CPU of this machine: its name, its cores, the threads that this process may use, and its instruction sets."""

from __future__ import annotations

import functools
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Instruction sets that decide about INT8 and bfloat16, by the names of /proc/cpuinfo (x86, then Arm).
FEATURES = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimddp", "i8mm", "bf16",
)  # fmt: skip
# Values of ONEDNN_MAX_CPU_ISA that keep oneDNN, which computes convolutions and products, from bfloat16 units.
WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
CPUINFO = Path("/proc/cpuinfo")
CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Host:
    """What is known of this machine. `features` are those of `FEATURES` that the CPU has."""

    cpu: str
    cores: int  # physical, in all
    threads: int  # that this process may run at a time
    features: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "features": list(self.features)}


def bfloat16_forbidden(environment: Mapping[str, str]) -> str:
    """The instruction set that oneDNN was limited to where that has no bfloat16 units, else the empty string."""
    limit = environment.get("ONEDNN_MAX_CPU_ISA", environment.get("DNNL_MAX_CPU_ISA", "")).upper()
    return limit if limit in WITHOUT_BFLOAT16 else ""


@functools.cache
def host() -> Host:
    """This machine; asked once a process."""
    fields = _cpuinfo()
    flags = fields.get("flags", fields.get("Features", "")).split()
    threads = usable_threads()
    return Host(
        cpu=fields.get("model name") or platform.processor() or platform.machine(),
        cores=int(fields["cores"]) if "cores" in fields else os.cpu_count() or threads,
        threads=threads,
        features=tuple(flag for flag in FEATURES if flag in flags),
    )


def usable_threads() -> int:
    """Threads that can run at a time in this process: its CPU affinity, and the quota of its control group (cgroup v2).

    A container that may use 2 of 64 cores sees all 64 in `os.cpu_count`; as many threads would wait for each other.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CGROUP_LIMIT.read_text().split()
        return max(1, min(count, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or `max`: no quota
        return count


def _cpuinfo() -> dict[str, str]:
    """The first processor's fields of /proc/cpuinfo, and the number of physical `cores`; {} where there is none."""
    if not CPUINFO.exists():
        return {}
    blocks = [
        {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
        for text in CPUINFO.read_text().strip().split("\n\n")
    ]
    cores = {(block.get("physical id"), block.get("core id")) for block in blocks if "core id" in block}
    return {**blocks[0], **({"cores": str(len(cores))} if cores else {})}
