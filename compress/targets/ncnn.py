"""ncnn: the fastest float runtime on ARM boards such as the Raspberry Pi. pnnx converts a traced network to FP32 or
FP16. ncnn has no operator that selects by value, so graphs lack that last step (`Model.postprocess`)."""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.capabilities import Model
from compress.config import ExportConfig
from compress.errors import MissingExtra, TargetFailed
from compress.product import Graph, Precision
from compress.targets import artifact
from compress.targets.predictor import Predictor
from compress.targets.scheme import Scheme
from compress.tasks import Outputs
from compress.tasks.outputs import arrays, from_torch, pack

NAME = "ncnn"
FLOAT = Precision.fp32
QUANTIZED = Precision.fp16
_WHAT = (
    "weights in FP16, arithmetic too if the CPU supports it (ARMv8.2: Raspberry Pi 5); no INT8, since the tools "
    "for it, ncnn2table and ncnn2int8, are not in ncnn's Python package"
)
SCHEMES = (Scheme(_WHAT),)
INPUT, OUTPUTS = "in0", "out"  # set by pnnx; outputs are numbered from 0


def require() -> None:
    """Raises MissingExtra if ncnn or its converter pnnx is not installed."""
    for package in ("ncnn", "pnnx"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra("targets", package, NAME)


def convert(model: Model, folder: Path, config: ExportConfig) -> Graph:
    """Writes `folder`/model.param and model.bin in FP32. Raises TargetFailed if the network cannot be traced or
    converted, needs operators that ncnn does not have, or its outputs differ from torch."""
    graph, expected = _convert(model, folder, Precision.fp32)
    computed, wanted = arrays(load(graph, 1)(model.example_input().numpy())), arrays(expected)
    if len(computed) != len(wanted):
        raise TargetFailed(f"pnnx changed the network: it has {len(computed)} outputs instead of {len(wanted)}")
    for output, exact in zip(computed, wanted, strict=True):
        if output.shape != exact.shape:
            raise TargetFailed(f"pnnx changed the network: the output is {output.shape} instead of {exact.shape}")
        # Relative to each value rather than to the largest one, because outputs contain both scores and pixels.
        difference = float((np.abs(output - exact) / (1 + np.abs(exact))).max())
        if not difference <= (limit := artifact.TOLERANCE[Precision.fp32]):
            raise TargetFailed(f"pnnx changed the network: outputs differ by {difference:.2g}, allowed are {limit:g}")
    return graph


def quantize(
    graph: Graph, model: Model, calibration: Sequence[np.ndarray], folder: Path,
    scheme: Scheme = SCHEMES[0], kept: Mapping[str, str] | None = None,
) -> Graph:  # fmt: skip
    """Writes `folder`/model.param and model.bin in FP16; `calibration` and `kept` are not used. pnnx rounds during the
    conversion, so the file is converted from `model`, not from `graph`. Raises TargetFailed if that fails."""
    return _convert(model, folder, Precision.fp16)[0]


def _convert(model: Model, folder: Path, precision: Precision) -> tuple[Graph, Outputs]:
    """Returns the graph, and torch's outputs for the model's example input."""
    path, image = folder / "model.param", model.example_input()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        traced = Path(scratch, "model.pt")
        expected = _trace(model, image, traced)
        _pnnx(traced, path, tuple(image.shape), precision)
    if unknown := _unknown_operators(path):
        raise TargetFailed(f"ncnn does not support these operators of the network: {', '.join(unknown)}")
    scheme = _WHAT if precision is Precision.fp16 else ""
    return Graph(path, NAME, precision, scheme, postprocess=model.postprocess), expected


def _trace(model: Model, image: torch.Tensor, path: Path) -> Outputs:
    """Writes TorchScript of the deployed network without postprocessing; returns its outputs for `image`."""
    net = model.deployed(postprocess=False)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # Tracing warns about every Python number that becomes a constant; shapes are static here on purpose.
            warnings.simplefilter("ignore")
            outputs = from_torch(net(image))
            torch.jit.trace(net, image, check_trace=False).save(str(path))
    except Exception as error:  # torch raises exceptions of any type here
        raise TargetFailed(f"torch cannot trace this network: {error}") from error
    return outputs


def _pnnx(traced: Path, path: Path, shape: Sequence[int], precision: Precision) -> None:
    """Writes `path` and its .bin file; pnnx writes its other files beside `traced`."""
    import pnnx

    size, half = ",".join(map(str, shape)), int(precision is Precision.fp16)
    files = [f"ncnnparam={path.resolve()}", f"ncnnbin={path.resolve().with_suffix('.bin')}"]
    command = [pnnx.EXEC_PATH, str(traced), f"inputshape=[{size}]", f"fp16={half}", *files]
    try:
        done = subprocess.run(command, cwd=traced.parent, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise TargetFailed(f"pnnx does not run: {error}") from error
    if done.returncode != 0 or not path.is_file():
        last_line = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise TargetFailed(f"pnnx cannot convert this network: {' '.join(last_line) or f'exit {done.returncode}'}")


def _unknown_operators(path: Path) -> list[str]:
    """Layer types in a .param file that ncnn lacks: pnnx writes them under their torch name and reports success."""
    import ncnn

    # Two header lines, then one line per layer that starts with its type.
    kinds = {line.split()[0] for line in path.read_text(encoding="utf-8").splitlines()[2:] if line.strip()}
    return sorted(kind for kind in kinds if ncnn.layer_to_index(kind) < 0)


def package(graphs: Sequence[Graph], folder: Path, model: Model, provenance: Mapping[str, Any]) -> tuple[Graph, ...]:
    """Writes `folder`/{fp32,fp16}_ncnn_model/{model.param, model.bin, metadata.yaml}, the manifest and the bench kit;
    returns the graphs in `folder`. Graphs with postprocessing in NumPy go to `folder`/{fp32,fp16}, without metadata.
    Raises TargetFailed if a packed graph does not load."""
    import ncnn
    import pnnx

    packed = [
        artifact.copy_for_ultralytics(graph, folder, model)
        if graph.postprocess is None  # Ultralytics would interpret the rows of all anchors as selected detections
        else artifact.copy(graph, folder / graph.precision.value)
        for graph in graphs
    ]
    versions = {"ncnn": ncnn.__version__, "pnnx": pnnx.__version__}
    return artifact.finish(packed, folder, model, load, provenance, versions, names=(INPUT, OUTPUTS))


def load(graph: Graph, threads: int, *, exact: bool = False) -> Predictor:
    """Opens a graph in ncnn on the CPU. It computes FP16 files in float16 on ARMv8.2, and in float32 otherwise. Raises
    TargetFailed for a missing or damaged file."""
    import ncnn

    # By default ncnn computes in float16 wherever the CPU supports it, whatever the precision of the file, and it does
    # not report the precision used. So the precision is set explicitly, and reported as set.
    half = graph.precision is Precision.fp16 and ncnn.cpu_support_arm_asimdhp()
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = net.opt.use_bf16_storage = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = half
    for read, file in ((net.load_param, graph.path), (net.load_model, graph.path.with_suffix(".bin"))):
        if read(str(file)) != 0:  # ncnn writes the reason to stderr and raises nothing
            raise TargetFailed(f"ncnn cannot open {file}: missing or damaged")
    # An extractor that is asked for an unknown name crashes the process.
    inputs, outputs = net.input_names(), net.output_names()
    expected = [f"{OUTPUTS}{index}" for index in range(max(len(outputs), 1))]
    if inputs != [INPUT] or sorted(outputs) != sorted(expected):
        wanted = f"instead of {INPUT} and {', '.join(expected)}"
        raise TargetFailed(f"ncnn cannot use {graph.path}: inputs and outputs are {(inputs, outputs)} {wanted}")

    def run(image: np.ndarray) -> Outputs:
        with net.create_extractor() as extractor:  # ncnn.Mat has no batch axis
            # A copy: a first layer that computes in place ends the process on memory that ncnn does not own.
            extractor.input(INPUT, ncnn.Mat(image[0]).clone())
            return pack(np.array(extract(extractor, name))[None] for name in expected)

    def extract(extractor: Any, name: str) -> Any:
        status, output = extractor.extract(name)
        if status != 0:
            raise TargetFailed(f"ncnn cannot compute {graph.path}: status {status}")
        return output

    precision = "f16" if half else "f32"
    return Predictor(run, f"ncnn {ncnn.__version__}", precision, "measured", list, layers_obtained="graph")
