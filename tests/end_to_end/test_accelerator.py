"""Placement on accelerators, for machines that have none: a second device made in Python, and a static check."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "compress"
MAKERS = {
    "arange", "as_tensor", "empty", "eye", "from_numpy", "full", "linspace", "normal", "ones", "rand", "randint",
    "randn", "randperm", "tensor", "zeros",
}  # fmt: skip
# Functions that may make tensors on the CPU without saying so, or call `.numpy()` on a tensor that is there.
ON_THE_CPU = {
    "__init__": {"get_flops"},
    "capabilities": {"example_image", "tensor_digest"},  # networks are on the CPU between uses
    "data.batches": {"BatchMaker._make"},  # batches are made on the CPU
    "finetuning": {"class_weights"},  # each process moves them to its device
    "measurement.accuracy": {"predictor"},  # moved in the same line
    "measurement.contracts": {"verify"},  # files in runtimes, compared with torch on the CPU
    "measurement.layer_latency": {"layer_seconds"},
    "measurement.layer_times": {"write"},  # example images for runtimes
    "measurement.programs": {"example"},  # programs are counted on the CPU
    "measurement.roofline": {"bandwidth"},  # of the CPU
    "measurement.rows": {"measure_model", "measure_graph"},  # example images for runtimes
    "models.normalisation": {"Normalised.__init__"},  # buffers, moved with the network
    "models.onnx_model": {"FileNet.__init__", "FileNet.forward"},  # ONNX Runtime
    "models.ultralytics_head": {"decode", "detections"},  # outputs of all runtimes
    "models.ultralytics_instances": {"masks", "keypoints", "turned_boxes", "_tensor"},
    "measurement.bottlenecks": {"_measured"},  # an example image for runtimes
    "profiling.subject": {"of_model"},  # likewise
    "pruning.importance": {"_random"},  # scores are compared on the CPU
    "quantization.search": {"Search._latencies"},
    "quantization.sensitivity": {"ranked"},  # moved in the same line
    "stages.reconstruct": {"_load"},  # batches are made on the CPU
    "targets.artifact": {"finish"},
    "targets.ncnn": {"convert"},
    "tasks.classify": {"Classify.collate"},  # batches are made on the CPU, also in worker processes
    "tasks.obb": {"OrientedBoxes.entries"},
    "tasks.pose": {"Pose.entries"},
    "tasks.segment": {"Segment.entries"},
    "tasks.semantic": {"Semantic.collate"},
    "tasks.task": {"box_batch", "images_to_tensor"},
}


@pytest.mark.parametrize("recipe", ["digits", "yolo"])
def test_what_computes_on_a_second_device_has_the_results_of_the_cpu(recipe: str) -> None:
    cases = Path(__file__).with_name("accelerator_cases.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases), "-k", f"{recipe} or refuses"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout and " skipped" not in done.stdout


def implicit(tree: ast.AST, scope: str = "") -> set[str]:
    """Functions that make a tensor without `device=`, or call `.numpy()` without `.cpu()` before it."""
    result = set()
    for node in ast.iter_child_nodes(tree):
        inner = f"{scope}.{node.name}".strip(".") if isinstance(node, ast.FunctionDef | ast.ClassDef) else scope
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of, named = node.func.value, {keyword.arg for keyword in node.keywords}
            maker = isinstance(of, ast.Name) and of.id == "torch" and node.func.attr in MAKERS
            from_cpu = isinstance(of, ast.Call) and isinstance(of.func, ast.Attribute) and of.func.attr == "cpu"
            if (maker and "device" not in named) or (node.func.attr == "numpy" and not from_cpu):
                result.add(scope)
        result |= implicit(node, inner)
    return result


def test_the_static_check_sees_what_it_should() -> None:
    code = """
def a(): return torch.zeros(3)
def b(x): return torch.zeros(3, device=x.device), x.cpu().numpy()
class C:
    def d(self): return self.x.numpy()
"""
    assert implicit(ast.parse(code)) == {"a", "C.d"}


def test_no_tensor_is_made_on_an_implicit_device() -> None:
    files = [file for file in PACKAGE.rglob("*.py") if not {"bench_kit", "examples"} & set(file.parts)]
    names = {".".join(file.relative_to(PACKAGE).with_suffix("").parts): file for file in files}
    seen = {name: implicit(ast.parse(file.read_text())) for name, file in names.items()}
    assert {name: functions for name, functions in seen.items() if functions} == ON_THE_CPU
