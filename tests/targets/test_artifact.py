"""What an artifact folder holds besides the models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.capabilities import TopK
from compress.errors import TargetFailed
from compress.ledger import OperatingPoint, Thresholds
from compress.product import Graph, Precision
from compress.targets import artifact
from compress.targets.bench_kit.labelled_images import FILE, KINDS
from compress.targets.predictor import Predictor
from compress.tasks import DETECT, POSE, SEGMENT
from tests.fakes import FakeModel, small_model

PIXELS = [np.full((8, 8, 3), index, np.uint8) for index in range(3)]


def test_large_images_are_few(tmp_path: Path) -> None:
    images = [np.zeros((640, 640, 3), np.uint8)] * 8
    artifact.add_labelled_images(tmp_path, images, list(range(8)))
    with np.load(tmp_path / FILE) as file:
        assert len(file["images"]) == artifact.MIN_LABELLED_IMAGES


def test_without_images_there_is_no_file(tmp_path: Path) -> None:
    artifact.add_labelled_images(tmp_path, [], [])
    assert not (tmp_path / FILE).exists()


def test_boxes_are_stored_with_the_number_of_their_image(tmp_path: Path) -> None:
    boxes = [np.array([[1, 0, 0, 4, 4], [0, 2, 2, 6, 6]]), np.zeros((0, 5)), np.array([[2, 1, 1, 3, 3]])]
    artifact.add_labelled_images(tmp_path, PIXELS, boxes)
    with np.load(tmp_path / FILE) as file:
        assert file["owner"].tolist() == [0, 0, 2]
        assert file["labels"].tolist() == np.concatenate(boxes).tolist() and file["labels"].dtype == np.float32
        assert file["images"].tolist() == np.stack(PIXELS).tolist()


def constant(value: float) -> Callable[[Graph, int], Predictor]:
    """A `load` whose predictors return `value` for all three classes, plus 1 in INT8."""

    def load(graph: Graph, threads: int) -> Predictor:
        output = np.full((1, 3), value + (graph.precision is Precision.int8), np.float32)
        return Predictor(lambda image: output, "known 1.0", "f32", "measured", lambda: [])

    return load


def graphs(folder: Path, target: str = "onnxruntime") -> list[Graph]:
    """An FP32 and an INT8 file, whose contents are their precisions."""
    made = []
    for precision in (Precision.fp32, Precision.int8):
        path = folder / precision.value / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_text(precision.value)
        made.append(Graph(path, target, precision))
    exclusions, calibration = {"head": "needs fine steps"}, {"images": 8}
    return [made[0], replace(made[1], scheme="static", exclusions=exclusions, calibration=calibration)]


def finished(folder: Path, model: FakeModel, value: float = 0.5, target: str = "onnxruntime") -> dict[str, Any]:
    """The manifest of a finished folder."""
    artifact.finish(graphs(folder, target), folder, model, constant(value), {"recipe": "mine"}, {"onnx": "1"})
    return json.loads((folder / "manifest.json").read_text())


def test_a_copy_has_all_files_of_its_graph(tmp_path: Path) -> None:
    for name in ("yolo.xml", "yolo.bin"):
        (tmp_path / name).write_text(name)
    graph = Graph(tmp_path / "yolo.xml", "openvino", Precision.int8, "static")
    copied = artifact.copy(graph, tmp_path / "new")
    assert copied == replace(graph, path=tmp_path / "new" / "model.xml")
    assert [path.read_text() for path in copied.files] == ["yolo.xml", "yolo.bin"]


def test_the_manifest_lists_files_models_and_what_stays_in_float(tmp_path: Path) -> None:
    model = small_model()
    manifest = finished(tmp_path, model)
    assert manifest["precision"] == ["fp32", "int8"] and manifest["recipe"] == "mine"
    assert manifest["models"] == {
        name: {
            "model": f"{name}/model.onnx",
            "scheme": scheme,
            "expected_output": f"expected_output_{name}.npy",
            "tolerance": tolerance,
            "output_shape": [1, 3],
        }
        for name, scheme, tolerance in (("fp32", "", 0.02), ("int8", "static", 0.1))
    }
    assert manifest["kept_float"] == [["head", "needs fine steps"]] and manifest["calibration"] == {"images": 8}
    assert manifest["inputs"] == [{"name": "images", "shape": [1, 3, 32, 32], "dtype": "float32"}]
    assert manifest["outputs"] == [{"name": "output0", "shape": [1, 3], "dtype": "float32"}]
    assert np.load(tmp_path / "expected_output_int8.npy").tolist() == [[1.5, 1.5, 1.5]]
    assert np.array_equal(np.load(tmp_path / "sample_input.npy"), model.example_input().numpy())


def test_the_checksums_are_those_of_all_files_but_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "bench.pyc").write_text("left over")
    for name in ("bench.json", "microbenchmark.json"):  # results, which change
        (tmp_path / name).write_text("{}")
    files = finished(tmp_path, small_model())["files"]
    assert set(files) == {
        "README.md", "sample_input.npy", "runtime.py", *artifact.SCRIPTS, *artifact.MICROBENCHMARK,
        "fp32/model.onnx", "int8/model.onnx", "expected_output_fp32.npy", "expected_output_int8.npy",
    }  # fmt: skip
    assert files["int8/model.onnx"] == hashlib.sha256(b"int8").hexdigest()


def test_a_target_without_a_kit_is_packaged_without(tmp_path: Path) -> None:
    assert "bench.py" not in finished(tmp_path, small_model(), target="abacus")["files"]


def test_an_output_that_is_not_finite_is_refused_and_the_folder_stays_incomplete(tmp_path: Path) -> None:
    with pytest.raises(TargetFailed, match="onnxruntime fp32: the reloaded graph returns NaN"):
        finished(tmp_path, small_model(), np.nan)
    assert not (tmp_path / "manifest.json").exists()


def test_labelled_images_are_judged_at_export(tmp_path: Path) -> None:
    artifact.add_labelled_images(tmp_path, PIXELS, [0, 1, 0])
    manifest = finished(tmp_path, small_model())  # the first of equal scores wins
    judged = {"metric": "top1", "value": pytest.approx(2 / 3), "images": 3}
    assert [entry["labelled_images"] for entry in manifest["models"].values()] == [judged] * 2
    assert FILE in manifest["files"]


def test_graphs_are_read_back_with_their_shapes(tmp_path: Path) -> None:
    model = replace(small_model(), postprocess=TopK(3, 5))
    made = [replace(graph, postprocess=model.postprocess) for graph in graphs(tmp_path)]
    artifact.finish(made, tmp_path, model, constant(0), {}, {})
    read = artifact.read(tmp_path)
    assert [shapes for _, shapes in read] == [((1, 3),), ((1, 3),)]
    assert [graph for graph, _ in read] == [replace(graph, exclusions={}, calibration={}) for graph in made]


def test_all_outputs_of_a_graph_are_listed_and_stored(tmp_path: Path) -> None:
    masks = np.ones((1, 2, 4, 4), np.float32)

    def load(graph: Graph, threads: int) -> Predictor:
        return replace(constant(0)(graph, threads), run=lambda image: (np.zeros((1, 5, 9), np.float32), masks))

    artifact.finish(graphs(tmp_path), tmp_path, small_model(), load, {}, {})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["outputs"] == [
        {"name": "output0", "shape": [1, 5, 9], "dtype": "float32"},
        {"name": "output1", "shape": [1, 2, 4, 4], "dtype": "float32"},
    ]
    entry = manifest["models"]["int8"]
    assert (entry["expected_output"], entry["output_shape"]) == ("expected_output_int8.npy", [1, 5, 9])
    file = "expected_output_int8_1.npy"
    assert entry["other_outputs"] == [{"expected_output": file, "output_shape": [1, 2, 4, 4]}]
    assert np.array_equal(np.load(tmp_path / file), masks) and file in manifest["files"]
    assert [shapes for _, shapes in artifact.read(tmp_path)] == [((1, 5, 9), (1, 2, 4, 4))] * 2

    masks[0, 1, 2, 3] = np.nan
    with pytest.raises(TargetFailed, match="returns NaN"):
        artifact.finish(graphs(tmp_path / "broken"), tmp_path / "broken", small_model(), load, {}, {})


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_file_that_is_not_the_exported_one_is_named(damage: str, tmp_path: Path) -> None:
    finished(tmp_path, small_model())
    path = tmp_path / "int8" / "model.onnx"
    path.write_text("other") if damage == "changed" else path.unlink()
    with pytest.raises(TargetFailed, match=r"int8/model\.onnx is missing or was changed after the export"):
        artifact.read(tmp_path)


@pytest.mark.parametrize("text", [None, "{"])
def test_a_folder_without_a_readable_manifest_must_be_exported_again(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(TargetFailed, match=r"manifest\.json cannot be read .*: export the model again"):
        artifact.read(tmp_path)


@pytest.mark.parametrize(
    ("selects", "left_to_do", "kind"),
    [(False, False, "anchors"), (True, False, "detections"), (True, True, "rows")],
)
def test_the_kind_of_a_detectors_output(selects: bool, left_to_do: bool, kind: str, tmp_path: Path) -> None:
    select = TopK(3, 5)
    graph = Graph(tmp_path, "ncnn", Precision.fp32, postprocess=select if left_to_do else None)
    for task, prefix in ((DETECT, ""), (SEGMENT, "segment/"), (POSE, "pose/")):
        model = replace(small_model(), task=task, postprocess=select if selects else None)
        assert artifact.output_kind(graph, model) == prefix + kind
        assert prefix + kind in KINDS


@pytest.mark.parametrize(("channels", "colour"), [(1, "grey"), (3, "RGB"), (4, "4 channels")])
def test_the_manifest_tells_the_colours_of_an_image(channels: int, colour: str) -> None:
    said = artifact.preprocessing(replace(small_model(), channels=channels))
    assert said["colour"] == colour and said["mean"] == [0.0] * channels and said["std"] == [1.0] * channels


@pytest.mark.parametrize(
    "target", sorted(file.stem.removeprefix("README_") for file in artifact.KIT.glob("README_*.md"))
)
def test_the_readme_says_that_there_were_no_labels(target: str, tmp_path: Path) -> None:
    for confidence, quality in ((None, "the model's accuracy on them"), (0.25, "the model's agreement with these")):
        folder = tmp_path / str(confidence)
        artifact.add_labelled_images(folder, PIXELS, [0, 1, 0], confidence)
        judged = finished(folder, small_model(), target=target)["models"]["fp32"]["labelled_images"]
        assert quality in (folder / "README.md").read_text()
        assert judged["metric"] == ("top1" if confidence is None else "agreement top1")


def test_thresholds_are_added_after_the_export_and_files_stay_valid(tmp_path: Path) -> None:
    finished(tmp_path, small_model())
    point = OperatingPoint(0.3, 0.9, 0.8)
    entries = {"best_f1": Thresholds(point, None, "too low")}
    [(fp32, _), (int8, _)] = artifact.read(tmp_path)
    artifact.add_thresholds(int8, tmp_path, entries)
    artifact.add_thresholds(replace(fp32, path=tmp_path.parent / "elsewhere" / "model.onnx"), tmp_path, entries)
    models = json.loads((tmp_path / "manifest.json").read_text())["models"]
    expected = {"threshold": 0.3, "precision": 0.9, "recall": 0.8}
    assert models["int8"]["confidence_thresholds"] == {
        "best_f1": {"baseline": expected, "artifact": None, "reason": "too low"}
    }
    assert "confidence_thresholds" not in models["fp32"]
    assert len(artifact.read(tmp_path)) == 2  # checks all files
