"""What every target's artifact folder holds besides the models: manifest with checksums, sample, bench kit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress import atomic
from compress.capabilities import Model, Preprocessed, TopK
from compress.errors import TargetFailed
from compress.host import host
from compress.product import Graph, Precision
from compress.targets import saturation
from compress.targets.bench_kit import labelled_images
from compress.targets.onnx_graph import INPUT, OUTPUT
from compress.targets.predictor import Predictor

SCHEMA_VERSION = 1
KIT = Path(__file__).parent / "bench_kit"
LABELLED_BYTES, LABELLED_LEAST = 4_000_000, 4  # of the images before compression; how many at least
# Largest difference from the shipped output, as a share of its largest value, that is still the same computation:
# runtimes add in another order, and INT8 rounds that difference to whole steps.
TOLERANCE = {Precision.fp32: 0.02, Precision.fp16: 0.05, Precision.int8: 0.1}


def copy(graph: Graph, folder: Path) -> Graph:
    """The graph with its files copied into `folder` as model.<suffix> (and model.bin)."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in graph.files:
        shutil.copyfile(file, folder / f"model{file.suffix}")
    return dataclasses.replace(graph, path=folder / f"model{graph.path.suffix}")


def finish(
    graphs: Sequence[Graph],
    folder: Path,
    model: Model,
    load: Callable[[Graph, int], Predictor],
    facts: Mapping[str, Any],
    versions: Mapping[str, str],
    names: tuple[str, str] = (INPUT, OUTPUT),
) -> None:
    """Reloads every graph, records what it answers to a sample image, and writes kit and manifest (last: its presence
    means that the folder is complete). `names` are those of input and output inside the files.

    Raises:
        TargetFailed: a graph does not load again, or answers with something other than finite numbers.
    """
    target = graphs[0].target
    sample = model.example_input().numpy()
    np.save(folder / "sample_input.npy", sample)
    models = {}
    for graph in graphs:
        name = graph.precision.value
        predict = load(graph, 1)
        output = predict(sample)
        if not np.isfinite(output).all():
            raise TargetFailed(f"{target} {name}: the reloaded graph answers with values that are not finite")
        np.save(folder / f"expected_output_{name}.npy", output)
        labelled = _labelled(folder, graph, model, predict)
        models[name] = {
            "model": graph.path.relative_to(folder).as_posix(),
            "scheme": graph.scheme,
            "expected_output": f"expected_output_{name}.npy",
            "tolerance": TOLERANCE[graph.precision],
            "output_shape": list(output.shape),
            **({"labelled_images": labelled} if labelled else {}),
        }
    _write_kit(folder, target)
    manifest = _manifest(graphs, model, models, facts, versions, names)
    manifest["files"] = {path.relative_to(folder).as_posix(): _sha256(path) for path in _files(folder)}
    atomic.write(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")


def add_labelled_images(folder: Path, images: Sequence[np.ndarray], targets: Sequence[Any]) -> None:
    """Puts labelled validation images into an artifact folder, before it is packed: the kit judges the model by them.

    Args:
        images: uint8 (s, s, c) each, as the network takes them but for the division by 255; as many of them are taken
            as LABELLED_BYTES hold.
        targets: a class each, or float32 (n, 5), class and corners in pixels.
    """
    most = max(LABELLED_LEAST, LABELLED_BYTES // max(1, images[0].nbytes)) if images else 0
    images, targets = images[:most], targets[:most]
    if not images:
        return
    rows = [np.asarray([[each]], np.float32) if np.ndim(each) == 0 else np.asarray(each) for each in targets]
    owner = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.concatenate(rows).astype(np.float32)
    np.savez_compressed(folder / labelled_images.FILE, images=np.stack(images), labels=labels, owner=owner)


def output_kind(graph: Graph, model: Model) -> str:
    """What a file's raw output is, in the words of `bench_kit/labelled_images.py`."""
    return model.task.output_kind(end_to_end=model.postprocess is not None, postprocessed=graph.postprocess is None)


def kit_judges(graph: Graph, model: Model) -> bool:
    """True if the bench kit understands the output, so that labelled images are of use on the device."""
    return output_kind(graph, model) in labelled_images.KINDS


def _labelled(folder: Path, graph: Graph, model: Model, predict: Predictor) -> dict[str, Any] | None:
    """How the packed graph does on the labelled images, where there are any."""
    path = folder / labelled_images.FILE
    if not path.exists():
        return None
    return labelled_images.judge(path, output_kind(graph, model), len(model.classes), predict)


def _manifest(
    graphs: Sequence[Graph],
    model: Model,
    models: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Any],
    versions: Mapping[str, str],
    names: tuple[str, str],
) -> dict[str, Any]:
    int8 = [graph for graph in graphs if graph.precision is Precision.int8]
    kept = {layer: why for graph in int8 for layer, why in graph.exclusions.items()}
    shapes = {tuple(entry["output_shape"]) for entry in models.values()}
    return {
        "schema_version": SCHEMA_VERSION,
        "target": graphs[0].target,
        "precision": [graph.precision.value for graph in graphs],
        "models": models,
        "inputs": [{"name": names[0], "shape": [1, model.channels, model.imgsz, model.imgsz], "dtype": "float32"}],
        "outputs": [{"name": names[1], "shape": list(shape), "dtype": "float32"} for shape in shapes],
        "preprocessing": preprocessing(model),
        "tail": _postprocess(graphs[0]),
        "output": output_kind(graphs[0], model),
        "classes": list(model.classes),
        "calibration": dict(int8[0].calibration) if int8 else {},
        "kept_float": [[layer, why] for layer, why in kept.items()],
        "versions": dict(versions),
        "checked_on": checked_on(graphs[0].target),
        **facts,
    }


def preprocessing(model: Model) -> dict[str, Any]:
    """What is to be done with an image before a file of `model` gets it."""
    return {
        "colour": "RGB" if model.channels == 3 else "grey" if model.channels == 1 else f"{model.channels} channels",
        "layout": "NCHW: one image, its channels, rows, columns",
        "range": "0 to 1: bytes divided by 255",
        "resize": "letterbox: scaled to fit, centred, padded to a square with grey 114",
        "imgsz": model.imgsz,
        # To be applied after scaling to [0, 1]: nothing. A graph that normalises does so itself.
        "mean": [0.0] * model.channels,
        "std": [1.0] * model.channels,
        "normalised_in_graph": None,
        **(model.preprocessing() if isinstance(model, Preprocessed) else {}),
    }


def checked_on(target: str) -> dict[str, Any]:
    """The machine whose answers stand in the artifact: INT8 graphs may answer otherwise on other instruction sets."""
    machine = host()
    return {
        "cpu": machine.cpu,
        "instruction_sets": list(machine.features),
        "int8_saturates": saturation.saturates(target),
    }


def read(folder: Path) -> list[tuple[Graph, tuple[int, ...]]]:
    """The graphs in an artifact folder and the shapes of what their files answer to one image.

    Raises:
        TargetFailed: there is no manifest, or a file is not the one that it lists.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TargetFailed(f"{path} cannot be read ({error}): export the model again") from error
    for name, digest in manifest["files"].items():
        file = folder / name
        if not file.is_file() or _sha256(file) != digest:
            raise TargetFailed(f"{file} is missing or not the file that was exported: export the model again")
    postprocess = manifest["tail"] and TopK(manifest["tail"]["classes"], manifest["tail"]["most"])
    return [
        (
            Graph(
                folder / facts["model"],
                manifest["target"],
                Precision(precision),
                facts["scheme"],
                postprocess=postprocess,
            ),
            tuple(facts["output_shape"]),
        )
        for precision, facts in manifest["models"].items()
    ]


def _postprocess(graph: Graph) -> dict[str, Any] | None:
    """What the reader of a file's output has still to do, in words and numbers."""
    if graph.postprocess is None:
        return None
    what = (
        "a row for every anchor: 4 box corners in pixels, then a score for each class; the detections are the best "
        "anchors by their best class, and of those the best (anchor, class) pairs; no suppression is needed"
    )
    return {"kind": "top_k", "what": what, **dataclasses.asdict(graph.postprocess)}


def _write_kit(folder: Path, target: str) -> None:
    """Copies the bench kit; a target that has none is packaged without."""
    if not (KIT / f"runtime_{target}.py").exists():
        return
    shutil.copyfile(KIT / "bench.py", folder / "bench.py")
    shutil.copyfile(KIT / "labelled_images.py", folder / "labelled_images.py")
    shutil.copyfile(KIT / f"runtime_{target}.py", folder / "runtime.py")
    shutil.copyfile(KIT / f"README_{target}.md", folder / "README.md")


def _files(folder: Path) -> list[Path]:
    skipped = ("manifest.json", "bench.json")
    return sorted(
        p for p in folder.rglob("*") if p.is_file() and p.name not in skipped and p.parent.name != "__pycache__"
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
