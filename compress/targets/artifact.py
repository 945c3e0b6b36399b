"""Writes and reads an artifact folder: model files, manifest with checksums, sample input with expected outputs, bench
kit (scripts that check and time the models on a device)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from compress import atomic
from compress.capabilities import Model, Preprocessed, TopK
from compress.errors import TargetFailed
from compress.host import host
from compress.ledger import Thresholds
from compress.product import Graph, Precision
from compress.targets import saturation
from compress.targets.bench_kit import labelled_images
from compress.targets.onnx_graph import INPUT, OUTPUTS
from compress.targets.predictor import Predictor
from compress.tasks.outputs import arrays

KIT = Path(__file__).parent / "bench_kit"
SCRIPTS = ("bench.py", "labelled_images.py", "power.py", "thermal.py")
MICROBENCHMARK = ("microbenchmark.py", "blocks.py", "random_blocks.py", "onnx_file.py")
READ_ONNX = {"onnxruntime", "openvino"}  # targets whose runtime opens ONNX files, as the microbenchmark writes
MAX_LABELLED_BYTES, MIN_LABELLED_IMAGES = 4_000_000, 4  # before compression
# Of the README in the bench kit, and its replacement for data without labels.
WITH_LABELS = "contains labelled validation images. The script prints the model's accuracy on them, on this"
WITHOUT_LABELS = """contains validation images with the predictions of the unpruned model, since the
data had no labels. The script prints the model's agreement with these predictions, which is not accuracy, on this"""
# Largest accepted difference from the shipped output, as a fraction of the largest absolute value of that output.
# Runtimes sum in different orders, and INT8 rounds such differences to whole quantization steps.
TOLERANCE = {Precision.fp32: 0.02, Precision.fp16: 0.05, Precision.int8: 0.1}


def copy(graph: Graph, folder: Path) -> Graph:
    """Copies the files of `graph` into `folder` as model.<suffix>; returns the copied graph."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in graph.files:
        shutil.copyfile(file, folder / f"model{file.suffix}")
    return dataclasses.replace(graph, path=folder / f"model{graph.path.suffix}")


def copy_for_ultralytics(graph: Graph, folder: Path, model: Model) -> Graph:
    """As `copy`, with metadata.yaml, into a subfolder whose suffix tells Ultralytics the runtime."""
    copied = copy(graph, folder / f"{graph.precision.value}_{graph.target}_model")
    text = yaml.safe_dump(model.metadata(), sort_keys=False, allow_unicode=True)
    copied.path.with_name("metadata.yaml").write_text(text, encoding="utf-8")
    return copied


def finish(
    graphs: Sequence[Graph], folder: Path, model: Model, load: Callable[[Graph, int], Predictor],
    provenance: Mapping[str, Any], versions: Mapping[str, str], names: tuple[str, str] = (INPUT, OUTPUTS),
) -> tuple[Graph, ...]:  # fmt: skip
    """Completes an artifact folder: reloads every graph, stores its outputs for a sample image, and writes the bench
    kit and the manifest. The manifest is written last; its presence means that the folder is complete. Returns
    `graphs`. Raises TargetFailed if a graph does not load, or an output is not finite.

    Args:
        graphs: of one target, one per precision.
        load, provenance: see `compress.targets.Target`.
        versions: of the packages that made the files, by name.
        names: of the input tensor, and of the output tensors without their number, in the files.
    """
    target = graphs[0].target
    sample = model.example_input().numpy()
    np.save(folder / "sample_input.npy", sample)
    labelled = folder / labelled_images.FILE
    models: dict[str, dict[str, Any]] = {}
    for graph in graphs:
        name = graph.precision.value
        predict = load(graph, 1)
        outputs = arrays(predict(sample))
        if not all(np.isfinite(output).all() for output in outputs):
            raise TargetFailed(f"{target} {name}: the reloaded graph returns NaN or infinity for the sample input")
        expected = []
        for index, output in enumerate(outputs):
            file = f"expected_output_{name}_{index}.npy" if index else f"expected_output_{name}.npy"
            np.save(folder / file, output)
            expected.append({"expected_output": file, "output_shape": list(output.shape)})
        models[name] = {
            "model": graph.path.relative_to(folder).as_posix(),
            "scheme": graph.scheme,
            "expected_output": expected[0]["expected_output"],
            "tolerance": TOLERANCE[graph.precision],
            "output_shape": expected[0]["output_shape"],
        }
        if len(expected) > 1:
            models[name]["other_outputs"] = expected[1:]
        if labelled.exists():
            accuracy = labelled_images.judge(labelled, output_kind(graph, model), len(model.classes), predict)
            models[name]["labelled_images"] = accuracy
    _write_kit(folder, target)
    manifest = _manifest(graphs, model, models, provenance, versions, names)
    skipped = ("manifest.json", "bench.json", "microbenchmark.json")  # the bench kit writes the last two, later
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "__pycache__")
    manifest["files"] = {
        path.relative_to(folder).as_posix(): _sha256(path) for path in files if path.name not in skipped
    }
    atomic.write(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return tuple(graphs)


def add_labelled_images(
    folder: Path, images: Sequence[np.ndarray], labels: Sequence[Any], agreement: float | None = None
) -> None:
    """Adds labelled validation images to an artifact folder, for the bench kit. Call it before the target's `package`.

    Args:
        images: (s, s, c) in [0, 255], preprocessed except for the division by 255. The first are stored: as many as fit
            into MAX_LABELLED_BYTES, but at least MIN_LABELLED_IMAGES.
        labels: one per image: a class index, or float32 (n, 5): class, x1, y1, x2, y2 in input pixels.
        agreement: lowest score of the unpruned model's predictions that stand for labels; None: they are labels.
    """
    if not images:
        return
    limit = max(MIN_LABELLED_IMAGES, MAX_LABELLED_BYTES // max(1, images[0].nbytes))
    images, labels = images[:limit], labels[:limit]
    rows = [np.asarray([[label]], np.float32) if np.ndim(label) == 0 else np.asarray(label) for label in labels]
    image_index = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    folder.mkdir(parents=True, exist_ok=True)
    table = np.concatenate(rows).astype(np.float32)
    entries = {"images": np.stack(images), "labels": table, "owner": image_index}
    if agreement is not None:
        entries[labelled_images.AGREEMENT] = np.asarray(agreement)
    np.savez_compressed(folder / labelled_images.FILE, **entries)  # type: ignore[arg-type]  # it has a bool parameter


def add_thresholds(graph: Graph, folder: Path, thresholds: Mapping[str, Thresholds]) -> None:
    """Adds the confidence thresholds of a graph to the manifest in `folder`, if it describes the file of the graph.
    They are measured after the export. The checksums stay valid, as they do not cover the manifest itself."""
    path = folder / "manifest.json"
    if not graph.path.is_relative_to(folder) or not path.is_file():
        return
    manifest = json.loads(path.read_text(encoding="utf-8"))
    entries = {name: dataclasses.asdict(each) for name, each in thresholds.items()}
    manifest["models"][graph.precision.value]["confidence_thresholds"] = entries
    atomic.write(path, json.dumps(manifest, indent=1) + "\n")


def output_kind(graph: Graph, model: Model) -> str:
    """Kind of a file's first raw output, without `graph.postprocess`, as `bench_kit/labelled_images.py` names it."""
    return model.task.output_kind(end_to_end=model.postprocess is not None, postprocessed=graph.postprocess is None)


def _manifest(
    graphs: Sequence[Graph], model: Model, models: Mapping[str, Mapping[str, Any]],
    provenance: Mapping[str, Any], versions: Mapping[str, str], names: tuple[str, str],
) -> dict[str, Any]:  # fmt: skip
    int8 = [graph for graph in graphs if graph.precision is Precision.int8]
    exclusions = {layer: reason for graph in int8 for layer, reason in graph.exclusions.items()}
    return {
        "schema_version": 1,
        "target": graphs[0].target,
        "precision": [graph.precision.value for graph in graphs],
        "models": models,
        "inputs": [{"name": names[0], "shape": [1, model.channels, model.imgsz, model.imgsz], "dtype": "float32"}],
        "outputs": [
            {"name": f"{names[1]}{index}", "shape": list(shape), "dtype": "float32"}
            for index, shapes in enumerate(zip(*map(_shapes, models.values()), strict=True))
            for shape in set(shapes)
        ],
        "preprocessing": preprocessing(model),
        "tail": _postprocess(graphs[0], output_kind(graphs[0], model)),
        "output": output_kind(graphs[0], model),
        "classes": list(model.classes),
        "calibration": dict(int8[0].calibration) if int8 else {},
        "kept_float": [[layer, reason] for layer, reason in exclusions.items()],
        "versions": dict(versions),
        # The machine that computed the expected outputs: INT8 outputs depend on its instruction sets.
        "checked_on": {
            "cpu": host().cpu,
            "instruction_sets": list(host().features),
            "int8_saturates": saturation.saturates(graphs[0].target),
        },
        **provenance,
    }


def preprocessing(model: Model) -> dict[str, Any]:
    """Manifest entry: how an image must be prepared for a file of `model`."""
    return {
        "colour": "RGB" if model.channels == 3 else "grey" if model.channels == 1 else f"{model.channels} channels",
        "layout": "NCHW: one image, its channels, rows, columns",
        "range": "0 to 1: bytes divided by 255, 16-bit values by 65535",
        "resize": "letterbox: scaled to fit, centred, padded to a square with grey 114",
        "imgsz": model.imgsz,
        # For the caller to apply after scaling to [0, 1]: the identity, since the graph contains any normalisation.
        "mean": [0.0] * model.channels,
        "std": [1.0] * model.channels,
        "normalised_in_graph": None,
        **(model.preprocessing() if isinstance(model, Preprocessed) else {}),
    }


def _shapes(entry: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Shapes of the raw outputs of a file for one image, from its entry in the manifest."""
    return tuple(tuple(output["output_shape"]) for output in (entry, *entry.get("other_outputs", ())))


def read(folder: Path) -> list[tuple[Graph, tuple[tuple[int, ...], ...]]]:
    """Returns the graphs in an artifact folder, each with the shapes of its file's raw outputs for one image. Raises
    TargetFailed if the manifest cannot be read, a file is missing, or its checksum is not that in the manifest."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TargetFailed(f"{path} cannot be read ({error}): export the model again") from error
    for name, digest in manifest["files"].items():
        file = folder / name
        if not file.is_file() or _sha256(file) != digest:
            raise TargetFailed(f"{file} is missing or was changed after the export: export the model again")
    postprocess = manifest["tail"] and TopK(manifest["tail"]["classes"], manifest["tail"]["most"])
    graphs = []
    for precision, entry in manifest["models"].items():
        path, scheme = folder / entry["model"], entry["scheme"]
        graph = Graph(path, manifest["target"], Precision(precision), scheme, postprocess=postprocess)
        graphs.append((graph, _shapes(entry)))
    return graphs


def _postprocess(graph: Graph, kind: str) -> dict[str, Any] | None:
    """Manifest entry: the postprocessing step that is not in the file, whose first output is of this kind; None if
    there is none."""
    if graph.postprocess is None:
        return None
    others = "" if kind == "rows" else "; the values after the scores, such as mask coefficients, stay with their box"
    return {
        "kind": "top_k",
        "what": "one row per anchor: x1, y1, x2, y2 in pixels, then one score per class; select the `most` anchors "
        "with the highest class score, then the `most` (anchor, class) pairs with the highest score among them; "
        f"non-maximum suppression is not needed{others}",
        "classes": graph.postprocess.classes,
        "most": graph.postprocess.max_detections,
    }


def _write_kit(folder: Path, target: str) -> None:
    """Copies the bench kit, if there is one for the target."""
    if not (KIT / f"runtime_{target}.py").exists():
        return
    for name in (*SCRIPTS, *(MICROBENCHMARK if target in READ_ONNX else ())):
        shutil.copyfile(KIT / name, folder / name)
    shutil.copyfile(KIT / f"runtime_{target}.py", folder / "runtime.py")
    text = (KIT / f"README_{target}.md").read_text(encoding="utf-8")
    path = folder / labelled_images.FILE
    if path.exists():
        with np.load(path, allow_pickle=False) as file:
            if labelled_images.AGREEMENT in file:
                text = text.replace(WITH_LABELS, WITHOUT_LABELS)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
