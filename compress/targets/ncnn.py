"""ncnn: what runs fastest in float on ARM boards such as the Raspberry Pi. Files are written by pnnx from a traced
network, in FP32 and in FP16.

ncnn has no operator that picks by value, so graphs hold the network without that last step (`Model.postprocess`).
"""

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
import yaml
from torch.utils._pytree import tree_leaves

from compress.capabilities import Model
from compress.config import ExportConfig
from compress.errors import MissingExtra, TargetFailed
from compress.product import Graph, Precision
from compress.targets import artifact
from compress.targets.predictor import Predictor
from compress.targets.scheme import Scheme

NAME = "ncnn"
QUANTIZED = Precision.fp16
SCHEMES = (
    Scheme(
        "weights in FP16, arithmetic too where the CPU has it (ARMv8.2: Raspberry Pi 5); no INT8: the tools that write "
        "it, ncnn2table and ncnn2int8, are not in ncnn's Python package"
    ),
)
INPUT, OUTPUT = "in0", "out0"  # pnnx's own names


def require() -> None:
    """Raises MissingExtra where ncnn, or pnnx which writes its files, is absent."""
    for package in ("ncnn", "pnnx"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra("targets", package, NAME)


def convert(model: Model, folder: Path, config: ExportConfig) -> Graph:
    """Writes `folder`/model.param and model.bin in FP32.

    Raises:
        TargetFailed: the network cannot be traced or converted, gives more than one output, needs operators that ncnn
            does not have, or answers otherwise than in torch.
    """
    graph, wanted = _convert(model, folder, Precision.fp32)
    found = load(graph, 1)(model.example_input().numpy())
    if found.shape != wanted.shape:
        raise TargetFailed(f"pnnx changed the network: outputs {found.shape} instead of {wanted.shape}")
    # Of each value and not of the largest: scores stand beside pixels.
    difference = float((np.abs(found - wanted) / (1 + np.abs(wanted))).max())
    if not difference <= artifact.TOLERANCE[Precision.fp32]:
        raise TargetFailed(f"pnnx changed the network: outputs differ by {difference:.2g}")
    return graph


def quantize(
    graph: Graph,
    model: Model,
    calibration: Sequence[np.ndarray],
    folder: Path,
    scheme: Scheme = SCHEMES[0],
    kept: Mapping[str, str] | None = None,
) -> Graph:
    """Writes `folder`/model.param and model.bin in FP16; there is nothing to calibrate, and no layer is `kept`. pnnx
    rounds while it converts, so the file is made of the network that `graph` was made of.

    Raises:
        TargetFailed: the network cannot be traced or converted.
    """
    return _convert(model, folder, Precision.fp16)[0]


def _convert(model: Model, folder: Path, precision: Precision) -> tuple[Graph, np.ndarray]:
    """The graph, and what torch answers to the model's example input."""
    path, image = folder / "model.param", model.example_input()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        traced = Path(scratch, "model.pt")
        wanted = _trace(model, image, traced)
        _pnnx(traced, path, tuple(image.shape), precision)
    if unknown := _unknown_operators(path):
        raise TargetFailed(f"ncnn has no operators for these of the network: {', '.join(unknown)}")
    scheme = SCHEMES[0].description if precision is Precision.fp16 else ""
    return Graph(path, NAME, precision, scheme, postprocess=model.postprocess), wanted


def _trace(model: Model, image: torch.Tensor, path: Path) -> np.ndarray:
    """Writes TorchScript of the deployed network without its tail; returns what it answers to `image`."""
    net = model.deployed(postprocess=False)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # Tracing warns of every Python number it freezes: shapes are static here on purpose.
            warnings.simplefilter("ignore")
            outputs = tree_leaves(net(image))
            torch.jit.trace(net, image, check_trace=False).save(str(path))
    except Exception as error:  # torch raises anything from here
        raise TargetFailed(f"torch cannot trace this network: {error}") from error
    if len(outputs) != 1:
        raise TargetFailed(f"this network gives {len(outputs)} outputs; graphs for ncnn are made with one")
    return outputs[0].numpy()


def _pnnx(traced: Path, path: Path, shape: Sequence[int], precision: Precision) -> None:
    """Writes `path` and its .bin; what else pnnx leaves stays beside `traced`."""
    import pnnx

    sizes = ",".join(str(side) for side in shape)
    half = int(precision is Precision.fp16)
    files = [f"ncnnparam={path.resolve()}", f"ncnnbin={path.resolve().with_suffix('.bin')}"]
    command = [pnnx.EXEC_PATH, str(traced), f"inputshape=[{sizes}]", f"fp16={half}", *files]
    try:
        done = subprocess.run(command, cwd=traced.parent, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise TargetFailed(f"pnnx does not run: {error}") from error
    if done.returncode != 0 or not path.is_file():
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise TargetFailed(f"pnnx cannot convert this network: {' '.join(said) or f'exit {done.returncode}'}")


def _unknown_operators(path: Path) -> list[str]:
    """Kinds of layers in a .param file that ncnn does not have: what pnnx cannot convert it writes under torch's name,
    and reports success."""
    import ncnn

    # Two lines of header, then a line for each layer, its kind first.
    kinds = {line.split()[0] for line in path.read_text(encoding="utf-8").splitlines()[2:] if line.strip()}
    return sorted(kind for kind in kinds if ncnn.layer_to_index(kind) < 0)


def package(graphs: Sequence[Graph], folder: Path, model: Model, facts: Mapping[str, Any]) -> tuple[Graph, ...]:
    """Writes `folder`/{fp32,fp16}_ncnn_model/{model.param, model.bin, metadata.yaml}, the manifest and the bench kit;
    returns the graphs in `folder`. Where a tail is left to NumPy the folders are {fp32,fp16} without metadata.

    Raises:
        TargetFailed: a graph does not load again.
    """
    import ncnn
    import pnnx

    packed = []
    for graph in graphs:
        name = graph.precision.value
        if graph.postprocess is not None:
            # Ultralytics would take the rows of all anchors for detections already picked.
            packed.append(artifact.copy(graph, folder / name))
            continue
        packed.append(artifact.copy(graph, folder / f"{name}_ncnn_model"))  # how Ultralytics recognises the runtime
        text = yaml.safe_dump(model.metadata(), sort_keys=False, allow_unicode=True)
        packed[-1].path.with_name("metadata.yaml").write_text(text, encoding="utf-8")
    versions = {"ncnn": ncnn.__version__, "pnnx": pnnx.__version__}
    artifact.finish(packed, folder, model, load, facts, versions, names=(INPUT, OUTPUT))
    return tuple(packed)


def load(graph: Graph, threads: int, *, exact: bool = False) -> Predictor:
    """Opens a graph in ncnn on the CPU. FP16 files are computed in float16 on ARMv8.2, everything else in float32.

    Raises:
        TargetFailed: missing or damaged file.
    """
    import ncnn

    # ncnn does not tell what it computes in, and left to itself that is float16 wherever it can, whatever the file
    # holds: what may be named is what was asked for.
    half = graph.precision is Precision.fp16 and ncnn.cpu_support_arm_asimdhp()
    net = _net(graph.path, threads, half)

    def run(image: np.ndarray) -> np.ndarray:
        # Arrays in ncnn have no batch axis, and borrow NumPy's memory without keeping it alive: `image` does.
        with net.create_extractor() as extractor:
            extractor.input(INPUT, ncnn.Mat(image[0]))
            status, output = extractor.extract(OUTPUT)
            if status != 0:
                raise TargetFailed(f"ncnn cannot compute {graph.path}: status {status}")
            return np.array(output)[None]

    precision = "f16" if half else "f32"
    return Predictor(run, f"ncnn {ncnn.__version__}", precision, "measured", list, layers_obtained="graph")


def _net(path: Path, threads: int, half: bool) -> Any:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = half
    net.opt.use_bf16_storage = False
    for read, file in ((net.load_param, path), (net.load_model, path.with_suffix(".bin"))):
        if read(str(file)) != 0:  # it says why on stderr, and raises nothing
            raise TargetFailed(f"ncnn cannot open {file}: missing or damaged")
    # Names that are not there crash the process when they are asked for.
    if (names := (net.input_names(), net.output_names())) != ([INPUT], [OUTPUT]):
        raise TargetFailed(f"ncnn cannot use {path}: inputs and outputs {names} instead of {INPUT} and {OUTPUT}")
    return net
