"""The roofline of this machine (Williams, Waterman, Patterson, CACM 52(4), 2009): the arithmetic per second that a
network can reach is at most min(peak, operational intensity x bandwidth).

peak        10^9 operations/s (1 MAC = 2) of convolutions with 128 to 512 channels, by the number format that the
            runtime computes in: the fastest of ONNX Runtime and OpenVINO. A fast algorithm such as Winograd's does
            fewer multiplications than are counted, as it does in networks.
bandwidth   10^9 bytes/s of a triad a = b + s c on arrays that no cache holds, counted as in STREAM (McCalpin, 1995):
            two reads and one write. Tensors that stay in a cache move faster, so a layer can be above this roof.

Both are the best of many runs, because other programs only slow them down. They are measured once per machine, number
of threads and version of the runtimes, and kept in the user's cache folder. If other programs used the CPU, they are
measured again after `RETRY_SECONDS`.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from filelock import FileLock
from onnx import TensorProto, helper, numpy_helper

from compress import atomic, targets
from compress.digest import digest
from compress.errors import TargetFailed
from compress.host import host
from compress.measurement.contention import CONTENDED, Waiting
from compress.measurement.latency import timing_lock
from compress.product import Graph, Precision
from compress.targets.openvino_package import package_without_telemetry

SCHEMA_VERSION = 1
WIDTHS = {"bf16": 0.5, "f16": 0.5, "int8": 0.25}  # bytes of a number format relative to float32
SECONDS = 0.3  # of each measurement
RETRY_SECONDS = 3600.0
ARRAY_BYTES = 2**27  # of each of the three arrays of the triad, 128 MiB
LAYERS = 4  # equal convolutions in sequence, so that converting input and output does not count
CONVOLUTIONS = ((128, 40, 3), (512, 32, 1))  # channels, height and width, kernel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Roofline:
    """Peak arithmetic and memory bandwidth of a machine."""

    peak_gops: Mapping[str, float]  # 10^9 operations/s by number format: f32, bf16, f16, int8
    bandwidth_gb_s: float  # 10^9 bytes/s
    threads: int
    contended: bool = False  # other programs used the CPU during the measurement: the figures may be too low

    def attainable_gops(self, operations: float, moved: float, precision: str) -> float | None:
        """10^9 operations/s that `operations` on `moved` bytes can reach; None if the peak of the format is unknown."""
        peak = self.peak_gops.get(precision)
        if peak is None or not moved:
            return peak
        return min(peak, operations / moved * self.bandwidth_gb_s)

    def fraction(self, operations: float, moved: float, ms: float, precision: str) -> float | None:
        """Achieved operations/s relative to the attainable ones, if `operations` on `moved` bytes take `ms`."""
        roof = self.attainable_gops(operations, moved, precision)
        return operations / ms / 1e6 / roof if roof else None

    def ridge(self, precision: str) -> float | None:
        """Operations per byte above which arithmetic, not memory, is the limit; None if the peak is unknown."""
        peak = self.peak_gops.get(precision)
        return peak and peak / self.bandwidth_gb_s


def of_host(threads: int) -> Roofline:
    """The roofline of this machine with a number of threads: measured in about 5 s, or as measured before."""
    versions = {"onnxruntime": onnxruntime.__version__, "openvino": package_without_telemetry().__version__}
    environment = {name: os.environ.get(name, "") for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")}
    key = {"schema": SCHEMA_VERSION, "host": host().as_dict(), "threads": threads, **versions, **environment}
    path = _folder() / f"roofline-{digest(key)[:20]}.json"
    with FileLock(path.with_suffix(".lock")):
        with suppress(OSError, ValueError, TypeError):
            stored = Roofline(**json.loads(path.read_text()))
            if not stored.contended or time.time() - path.stat().st_mtime < RETRY_SECONDS:
                return stored
        log.info("measuring peak arithmetic and memory bandwidth of this machine, once")
        roofline = measure(threads)
        if roofline.contended:
            log.warning("other programs used the CPU: the measured peaks of this machine may be too low")
        with suppress(OSError):  # a full or read-only disk: measured again next time
            atomic.write(path, json.dumps(asdict(roofline)))
        return roofline


def measure(threads: int) -> Roofline:
    """Measures this machine, in about 5 s."""
    with timing_lock():
        peaks: dict[str, float] = {}
        waiting = Waiting()
        for precision, gops in _peaks(threads):
            peaks[precision] = max(gops, peaks.get(precision, 0.0))
        moved = bandwidth(threads)
        waited = waiting.fraction()
    return Roofline(peaks, moved, threads, contended=waited is not None and waited > CONTENDED)


def bandwidth(threads: int) -> float:
    """Memory bandwidth by a STREAM triad, in 10^9 bytes/s."""
    length, before = ARRAY_BYTES // 4, torch.get_num_threads()
    first, second, result = torch.zeros(length), torch.ones(length), torch.empty(length)
    torch.set_num_threads(threads)
    try:
        seconds = _least_seconds(lambda: torch.add(first, second, alpha=3.0, out=result))
    finally:
        torch.set_num_threads(before)
    return 3 * ARRAY_BYTES / seconds / 1e9


def _peaks(threads: int) -> Iterator[tuple[str, float]]:
    """(number format, 10^9 operations/s) of each convolution in each runtime and format."""
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        for channels, size, kernel in CONVOLUTIONS:
            image = np.random.default_rng(0).random((1, channels, size, size), dtype=np.float32)
            operations = 2 * LAYERS * (channels * size * kernel) ** 2
            for precision in (Precision.fp32, Precision.int8):
                path = Path(scratch, f"{channels}-{precision.value}.onnx")
                onnx.save(convolutions(channels, size, kernel, int8=precision is Precision.int8), path)
                for target, exact in (("onnxruntime", False), ("openvino", False), ("openvino", True)):
                    if exact and precision is Precision.int8:
                        continue
                    try:
                        predict = targets.get(target).load(Graph(path, target, precision), threads, exact=exact)
                    except TargetFailed as error:
                        log.debug("no peak of %s in %s: %s", target, precision.value, error)
                        continue
                    seconds = _least_seconds(functools.partial(predict.run, image))
                    yield predict.inference_precision, operations / seconds / 1e9


def convolutions(channels: int, size: int, kernel: int, *, int8: bool) -> onnx.ModelProto:
    """`LAYERS` convolutions (channels, size, size) in sequence, in FP32, or as U8 x S8 in the QDQ format."""
    shape = [1, channels, size, size]
    weights = np.random.default_rng(0).standard_normal((channels, channels, kernel, kernel)).astype(np.float32)
    weights /= np.float32(np.sqrt(channels) * kernel)
    stored = np.clip(np.round(weights * 32), -127, 127).astype(np.int8) if int8 else weights
    constants = [numpy_helper.from_array(stored, "weights")]
    nodes: list[onnx.NodeProto] = []

    def quantized(value: str) -> str:
        """Appends the pair that quantizes `value`; returns its output."""
        names, numbers = (f"{value}_q", f"{value}_dq"), ["scale_u8", "zero_u8"]
        for kind, source, name in zip(("QuantizeLinear", "DequantizeLinear"), (value, names[0]), names, strict=True):
            nodes.append(helper.make_node(kind, [source, *numbers], [name], name))
        return names[1]

    value, kernels = "images", "weights"
    if int8:
        scales = {
            "scale": np.float32(1 / 32),
            "zero": np.int8(0),
            "scale_u8": np.float32(1 / 16),
            "zero_u8": np.uint8(128),
        }
        constants += [numpy_helper.from_array(np.array(number), name) for name, number in scales.items()]
        nodes.append(helper.make_node("DequantizeLinear", ["weights", "scale", "zero"], ["kernels"], "weights_dq"))
        value, kernels = quantized(value), "kernels"
    for index in range(LAYERS):
        nodes.append(
            helper.make_node("Conv", [value, kernels], [f"conv{index}"], f"conv{index}", pads=[kernel // 2] * 4)
        )
        value = f"conv{index}"
        if int8:
            value = quantized(value)
    nodes[-1].output[0] = "output0"
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("images", "output0")]
    graph = helper.make_graph(nodes, "convolutions", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _least_seconds(call: Callable[[], object]) -> float:
    """The shortest duration of a call, in seconds."""
    call()
    shortest, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        shortest = min(shortest, time.perf_counter() - start)
    return shortest


def _folder() -> Path:
    """The user's cache folder of this package; one for temporary files if that cannot be written."""
    with suppress(OSError, RuntimeError):  # read-only, or there is no home
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compress"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    folder = Path(tempfile.gettempdir()) / f"compress-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    return folder
