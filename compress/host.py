"""The CPU of this machine: name, physical cores, threads that this process may use, and instruction sets; and the
garbage collection of this process."""

from __future__ import annotations

import functools
import gc
import math
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

# Instruction sets that matter for INT8 and bfloat16, as /proc/cpuinfo names them (x86, then Arm).
FEATURES = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimddp", "i8mm", "bf16",
)  # fmt: skip
# Values of ONEDNN_MAX_CPU_ISA with which oneDNN uses no bfloat16 instructions in convolutions and matrix products.
WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
PACKAGES = (
    "torch", "torchvision", "ultralytics", "timm", "onnx", "onnxruntime", "openvino", "nncf", "tensorrt-rtx-cu13",
    "ncnn", "pnnx", "ai-edge-litert", "ai-edge-quantizer", "litert-torch",
)  # fmt: skip
CPUINFO = Path("/proc/cpuinfo")
CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Host:
    """The CPU and the threads that this process may use."""

    cpu: str
    cores: int  # physical, of the whole machine
    threads: int  # that this process may run at the same time
    features: tuple[str, ...]  # those of `FEATURES` that the CPU has

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "features": list(self.features)}


def bfloat16_forbidden(environment: Mapping[str, str]) -> str:
    """The instruction set that `environment` limits oneDNN to if that lacks bfloat16, else the empty string."""
    limit = environment.get("ONEDNN_MAX_CPU_ISA", environment.get("DNNL_MAX_CPU_ISA", "")).upper()
    return limit if limit in WITHOUT_BFLOAT16 else ""


@functools.cache
def host() -> Host:
    """The CPU of this machine, read once per process."""
    fields, threads = _cpuinfo(), usable_threads()
    flags = fields.get("flags", fields.get("Features", "")).split()
    return Host(
        cpu=fields.get("model name") or platform.processor() or platform.machine(),
        cores=int(fields["cores"]) if "cores" in fields else os.cpu_count() or threads,
        threads=threads,
        features=tuple(flag for flag in FEATURES if flag in flags),
    )


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the installed packages that compute, quantize or convert, by name."""
    found = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def usable_threads() -> int:
    """Number of threads that this process can run at the same time, by CPU affinity and cgroup v2 quota.

    `os.cpu_count` is 64 in a container that may use 2 of 64 cores; that many threads would wait for each other.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CGROUP_LIMIT.read_text().split()
        return max(1, min(count, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or `max`: no quota
        return count


def _cpuinfo() -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo and the number of physical `cores`; {} without that file."""
    if not CPUINFO.exists():
        return {}
    blocks = [
        {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
        for text in CPUINFO.read_text().strip().split("\n\n")
    ]
    cores = {(block.get("physical id"), block.get("core id")) for block in blocks if "core id" in block}
    return blocks[0] | ({"cores": str(len(cores))} if cores else {})


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Suspends Python's search for cycles of objects in this process."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
