"""ONNX files that are made to read other files, fill the memory, or mislead: one error each, before any work."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, external_data_helper, helper, numpy_helper

from compress.config import Family, ModelConfig
from compress.errors import UserError
from compress.models import build
from tests.models.onnx_files import classifier, integers, model, save, weights


def external(folder: Path, name: str, **said: object) -> ModelProto:
    """A classifier whose first weights stand in the file `name`."""
    made = classifier()
    tensor = made.graph.initializer[0]
    (folder / "good.bin").write_bytes(tensor.raw_data)
    external_data_helper.set_external_data(tensor, name, **said)  # type: ignore[arg-type]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return made


def absolute(folder: Path) -> ModelProto:
    return external(folder, str(folder / "good.bin"))


def symlink(folder: Path) -> ModelProto:
    (folder / "w.bin").symlink_to("/etc/hostname")
    return external(folder, "w.bin")


def linked_folder(folder: Path) -> ModelProto:
    (folder / "inner").symlink_to("/etc")
    return external(folder, "inner/hostname")


def pipe(folder: Path) -> ModelProto:
    os.mkfifo(folder / "w.bin")
    return external(folder, "w.bin")


def in_a_node(folder: Path) -> ModelProto:
    made = classifier()
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [0.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../x")
    made.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=tensor))
    return made


def constant_of(*shape: int) -> ModelProto:
    """Four TB, if its constants are folded before anybody looks."""
    made = classifier()
    made.graph.initializer.append(integers("huge", *shape))
    made.graph.node.insert(0, helper.make_node("ConstantOfShape", ["huge"], ["filled"]))
    return made


def filled(value: float) -> ModelProto:
    made = classifier()
    array = numpy_helper.to_array(made.graph.initializer[0]).copy()
    array[0, 0, 0, 0] = value
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w0"))
    return made


def narrow() -> ModelProto:
    """A convolution of five channels on an image of three: ONNX Runtime tells when it runs."""
    made = classifier()
    made.graph.initializer[0].CopyFrom(weights("w0", 8, 5, 3, 3))
    return made


def recursive_function() -> ModelProto:
    made = classifier()
    call = helper.make_node("Again", ["x"], ["y"], domain="odd")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("odd", 1)]
    made.functions.append(helper.make_function("odd", "Again", ["x"], ["y"], [call], opsets))
    made.opset_import.append(helper.make_opsetid("odd", 1))
    made.graph.node.insert(0, helper.make_node("Again", ["pixels"], ["seen"], domain="odd"))
    return made


CASES: dict[str, tuple[Callable[[Path], ModelProto], str]] = {
    "huge input": (lambda _: classifier(image=(1, 3, 10**6, 10**6)), "at most 16384 px"),
    "larger than any number": (lambda _: classifier(image=(1, 3, 2**62, 2**62)), "at most 16384 px"),
    "huge constant": (lambda _: constant_of(10**6, 10**6), "more than fits"),
    "many channels": (lambda _: classifier(image=(1, 10**9, 16, 16)), "1 or 3 channels"),
    "negative": (lambda _: classifier(image=(1, 3, -5, -5)), "set model.imgsz"),
    "absolute": (absolute, "outside its folder"),
    "above": (lambda folder: external(folder, "../good.bin"), "outside its folder"),
    "hidden above": (lambda folder: external(folder, "inner/../../good.bin"), "outside its folder"),
    "symlink": (symlink, "not a regular file"),
    "linked folder": (linked_folder, "not a regular file"),
    "pipe": (pipe, "not a regular file"),
    "folder": (lambda folder: external(folder, "."), "not a regular file"),
    "missing": (lambda folder: external(folder, "nowhere.bin"), "not a regular file"),
    "in a node": (in_a_node, "outside its folder"),
    "long": (lambda folder: external(folder, "good.bin", length=10**15), "beyond the bounds"),
    "far": (lambda folder: external(folder, "good.bin", offset=10**15, length=4), "beyond the bounds"),
    "negative offset": (lambda folder: external(folder, "good.bin", offset=-4, length=4), "beyond the bounds"),
    "NaN": (lambda _: filled(np.nan), "w0 holds"),
    "infinite": (lambda _: filled(np.inf), "w0 holds"),
    "beyond float32": (lambda _: filled(3e38), "returns NaN|cannot compute"),
    "custom operator": (
        lambda _: model([helper.make_node("Run", ["pixels"], ["answer"], domain="odd")], []), "not in ONNX opset",
    ),
    "function that calls itself": (lambda _: recursive_function(), "cannot be read"),
    "weights that do not fit": (lambda _: narrow(), "cannot compute"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_error(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    make, says = CASES[name]
    made = make(folder)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(UserError, match=says) as caught:
        build(ModelConfig(family=Family.onnx, path=str(folder / "model.onnx"), imgsz=0, channels=0))
    assert "\n" not in str(caught.value)


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    save(external(tmp_path, "good.bin"), tmp_path / "model.onnx")
    onnx.load(tmp_path / "model.onnx")
    assert build(ModelConfig(family=Family.onnx, path=str(tmp_path / "model.onnx"), imgsz=0, channels=0)).classes


@pytest.mark.parametrize(
    "metadata",
    [
        {"names": "{0: 'a', 'b': 'c'}"}, {"names": "[" * 10**5}, {"names": "{[]: 1}"}, {"names": "__import__('os')"},
        {"stride": "²"}, {"stride": "0"}, {"stride": "9" * 5000}, {"args": "(" * 10**5}, {"names": "{0: " + "9" * 5000},
    ],
)  # fmt: skip
def test_odd_metadata_is_passed_over(metadata: dict[str, str], tmp_path: Path) -> None:
    save(classifier(metadata=metadata), tmp_path / "model.onnx")
    found = build(ModelConfig(family=Family.onnx, path=str(tmp_path / "model.onnx"), imgsz=0, channels=0))
    assert found.stride >= 1 and found.metadata() and len(found.classes) == 10
