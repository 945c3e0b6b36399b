"""Pruning works on every YOLO that we say it does.

Each network, built from the architecture that Ultralytics ships, with random weights and BatchNorm statistics, is
rewritten (is it the same function?), pruned to 30 % of its FLOPs, exported and run in ONNX Runtime (does it answer as
torch does?), pruned once more with equal halves and written as a `.pt`. A fresh interpreter that cannot import this
package then opens every `.pt` with plain Ultralytics: raw output, predict, val where a data set is quickly made, and
export to ONNX, whose output is compared too.
"""

from __future__ import annotations

import json
import math
import os
import pickletools
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from compress import get_flops, targets
from compress.capabilities import Model, Prunable
from compress.config import ExportConfig, ModelConfig, PruneConfig
from compress.models import build, save_native
from compress.models.ultralytics_head import MOST
from compress.pruning import solver
from compress.stages.prune import counter
from compress.targets import onnx_graph
from compress.tasks import CLASSIFY, DETECT

IMGSZ = 128  # pixels that everything but the FLOPs is done at
SHARE = 0.3
UNUSED = 0.01  # of the budget, at most
EQUAL = 1e-4  # torch against torch, in float32
NEAR = 1e-5  # scores of detections that may change places
AGREEMENT = 1e-3  # ONNX Runtime against torch, as a share of the largest output
CLASSES = ("a", "b", "c", "d")
NAMES = [f"yolo{version}{size}{task}" for task in ("", "-cls") for version in ("v8", "11", "26") for size in "ns"]
NAMES += [f"yolo{version}n-{task}" for task in ("seg", "pose", "obb") for version in ("v8", "11", "26")]

# Runs where `compress` cannot be imported. Reads a list of {pt, imgsz, data, picture, input, pt_says, onnx_says} on
# stdin; leaves what each .pt, and the ONNX file made from it, answer to the input in the two files named last.
PLAIN = """
import json, sys
sys.modules["compress"] = None
import numpy, onnxruntime, torch
from ultralytics import YOLO

for job in json.load(sys.stdin):
    image = numpy.load(job["input"])
    with torch.no_grad():
        out = YOLO(job["pt"]).model.fuse(verbose=False).eval()(torch.from_numpy(image))[0]
    numpy.savez(job["pt_says"], *[part.numpy() for part in (out if isinstance(out, tuple) else (out,))])
    YOLO(job["pt"]).predict(job["picture"], imgsz=job["imgsz"], verbose=False, device="cpu")
    if job["data"]:
        options = dict(workers=0, plots=False, verbose=False, device="cpu", batch=2)
        YOLO(job["pt"]).val(data=job["data"], imgsz=job["imgsz"], project="runs", **options)
    path = YOLO(job["pt"]).export(format="onnx", imgsz=job["imgsz"], simplify=False, device="cpu", verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    numpy.savez(job["onnx_says"], *session.run(None, {session.get_inputs()[0].name: image}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_yolo_is_pruned_exported_and_opened_by_plain_ultralytics(name: str, tmp_path: Path) -> None:
    row = check(name, IMGSZ, tmp_path)
    assert row["error"] is None
    opened([row], tmp_path)
    assert row["error"] is None


def check(name: str, imgsz: int, folder: Path) -> dict[str, Any]:
    """What was measured on one model; under "error" what is amiss, or None."""
    torch.manual_seed(0)
    model = build(ModelConfig(name=name, imgsz=imgsz), CLASSES)
    assert isinstance(model, Prunable)
    randomise(model.net, model.example_input())
    net, protected = model.prunable()
    example, count = model.example_input(), counter(model)
    pixels = 224 if model.task == CLASSIFY else 640
    row: dict[str, Any] = {"name": name, "pixels": pixels, "flops": get_flops(model, pixels), "error": None}
    with torch.no_grad():
        row["rewriting"] = difference(tree_leaves(model.net.eval()(example)), tree_leaves(net(example)))
    began = time.time()
    pruned = solver.prune_to_flops(net, example, protected, PruneConfig(), budget_macs=SHARE * count(net), count=count)
    row["seconds"] = time.time() - began
    assert pruned.macs is not None and pruned.reachable is not None
    least, full = pruned.reachable
    row |= {"reachable": least / full, "share": pruned.macs / full}
    row["onnx"] = in_onnxruntime(model.with_net(pruned.net), folder)

    config = PruneConfig(equal_split_widths=True)
    even = model.with_net(
        solver.prune_to_flops(net, example, protected, config, budget_macs=SHARE * full, count=count).net
    )
    path = save_native(even, folder)
    if not row["reachable"] <= SHARE:
        row["error"] = f"only {row['reachable']:.1%} of the FLOPs can be reached"
    elif not SHARE * (1 - UNUSED) <= row["share"] <= SHARE:
        row["error"] = f"pruned to {row['share']:.2%} of the FLOPs, not to {SHARE:.0%}"
    elif not row["rewriting"] <= EQUAL:
        row["error"] = f"rewriting changes the output by {row['rewriting']:.2g}"
    elif not row["onnx"] <= AGREEMENT:
        row["error"] = f"ONNX Runtime differs from torch by {row['onnx']:.2g} of the largest output"
    elif path is None:
        row["error"] = "no .pt could be written: halves of a split block differ"
    elif foreign := [module for module in pickled_modules(path) if module not in ("torch", "ultralytics")]:
        row["error"] = f"the .pt needs {', '.join(foreign)}"
    if path is not None:
        row["job"] = job(even, path, folder)
    return row


def randomise(net: Any, example: Tensor) -> None:
    """BatchNorms that do something: statistics of noise images, so that signals neither fade nor grow on their way and
    all outputs differ, then scales and shifts of their own."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    usual = norms[0].momentum
    for norm in norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.2, 0.2)
    with torch.no_grad():
        net.train()(torch.rand(8, *example.shape[1:]))
    for norm in norms:
        norm.momentum = usual
    for branch in ("cv3", "one2one_cv3"):  # scores as of no training at all lie closely above 0
        for layers in getattr(net.model[-1], branch, None) or ():
            nn.init.zeros_(layers[-1].bias)


def in_onnxruntime(model: Model, folder: Path) -> float:
    """Largest difference of ONNX Runtime's outputs from torch's, as a share of the largest output."""
    image = model.example_input()
    with torch.no_grad():
        expected = tree_leaves(model.deployed()(image))
    graph = targets.get("onnxruntime").convert(model, folder, ExportConfig())
    session = onnx_graph.open_session(graph.path, onnx_graph.session_options(1))
    result = session.run(None, {onnx_graph.INPUT: image.numpy()})
    return difference(expected, [torch.from_numpy(each) for each in result], relative=True)


def difference(expected: list[Tensor], result: list[Tensor], relative: bool = False) -> float:
    """Largest difference of two lists of tensors; infinite where they are not alike or not finite.

    Detections of equal scores may change places: those of end-to-end heads, (1, n, 6 and more) in descending score, are
    compared with the nearest ones, without those whose score is that of the last, which may fall off the end.
    """
    worst = 0.0
    for one, two in zip(expected, result, strict=True):
        if one.shape != two.shape or not torch.isfinite(two).all():
            return math.inf
        largest = float(one.abs().max()) if relative else 1.0
        if one.ndim == 3 and one.shape[1] == MOST:
            rows = one[0, one[0, :, 4] > one[0, -1, 4] + NEAR]
            apart = (rows[:, None] - two[0][None]).abs().amax(2).amin(1)
        else:
            apart = (one - two).abs()
        worst = max(worst, float(apart.max()) / largest)
    return worst


def pickled_modules(path: Path) -> set[str]:
    """Packages whose classes or functions a .pt names, Python's own left out."""
    with zipfile.ZipFile(path) as archive:
        data = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    result: set[str] = set()
    texts: list[str] = []
    for code, argument, _ in pickletools.genops(data):
        if code.name == "GLOBAL":
            result.add(str(argument).split(" ")[0].split(".")[0])
        elif code.name == "STACK_GLOBAL":
            result.add(texts[-2].split(".")[0])
        elif isinstance(argument, str):
            texts.append(argument)
    return result - set(sys.stdlib_module_names) - {"__builtin__"}


def job(model: Model, path: Path, folder: Path) -> dict[str, Any]:
    """What PLAIN needs to judge a .pt: an image, our answer to it, and a small data set where labels are simple."""
    image = model.example_input()
    with torch.no_grad():
        expected = tree_leaves(model.deployed()(image))
    np.save(folder / "input.npy", image.numpy())
    np.savez(folder / "expected.npz", *[part.numpy() for part in expected])
    data = {DETECT.name: boxes, CLASSIFY.name: folders}.get(model.task.name)
    files = {name: str(folder / f"{name}.npz") for name in ("expected", "pt_says", "onnx_says")}
    return files | {
        "pt": str(path), "imgsz": model.imgsz, "input": str(folder / "input.npy"),
        "picture": str(noise(folder / "picture.jpg", 0)), "data": str(data(folder / "data")) if data else None,
    }  # fmt: skip


def noise(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, (96, 128, 3), dtype=np.uint8))
    return path


def boxes(folder: Path) -> Path:
    """A YOLO data set of four images; its data.yaml."""
    (folder / "labels").mkdir(parents=True)
    for index in range(4):
        noise(folder / "images" / f"{index}.jpg", index)
        (folder / "labels" / f"{index}.txt").write_text(f"{index} 0.5 0.5 0.4 0.4\n")
    names = dict(enumerate(CLASSES))
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: images\nval: images\nnames: {names}\n")
    return folder / "data.yaml"


def folders(folder: Path) -> Path:
    """An image folder of one image a class, for training and validation."""
    for split in ("train", "val"):
        for index, name in enumerate(CLASSES):
            noise(folder / split / name / "0.jpg", index)
    return folder


def opened(rows: list[dict[str, Any]], scratch: Path) -> None:
    """Lets plain Ultralytics open every .pt; prints what came of it and notes errors in `rows`."""
    settings = scratch / "settings" / "Ultralytics"
    settings.mkdir(parents=True)
    for font in ("Arial.ttf", "Arial.Unicode.ttf"):  # validation would fetch them for plots, drawn or not
        (settings / font).touch()
    surroundings = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    surroundings |= {"YOLO_CONFIG_DIR": str(settings.parent), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN], input=json.dumps([row["job"] for row in rows]), capture_output=True,
        text=True, cwd=scratch, env=surroundings,
    )  # fmt: skip
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        rows[0]["error"] = f"plain Ultralytics fails on one of the .pt files: {why}"
        return
    for row in rows:
        ours, pt, onnx = (
            [torch.from_numpy(part) for part in np.load(row["job"][name]).values()]
            for name in ("expected", "pt_says", "onnx_says")
        )
        of_pt, of_onnx = difference(ours, pt), difference(ours, onnx, relative=True)
        if not of_pt <= EQUAL or not of_onnx <= AGREEMENT:
            row["error"] = row["error"] or f"plain Ultralytics answers differently by {of_pt:.2g}, {of_onnx:.2g}"
