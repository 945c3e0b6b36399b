from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.config import DataConfig
from compress.data import DataSet, Split, load
from compress.data.sample import NO_LABEL
from compress.errors import UserError
from compress.tasks import DETECT
from tests.data.faults import YAML, Change, assert_refused, in_turn, only, put, read, text
from tests.data.faults import open_yolo as open_whole


def open_yolo(folder: Path, seed: int = 0, **options: Any) -> DataSet:
    config = DataConfig(name="yolo", path=str(folder / "data.yaml"), calibration_images=3)
    return load(replace(config, **options), 64, 3, seed)


def names(split: Split) -> list[str]:
    return [str(sample.source) for sample in split.samples]


def test_an_ordinary_data_set(yolo_folder: Path) -> None:
    data = open_yolo(yolo_folder)
    assert (data.task, data.classes) == (DETECT, ("cat", "dog"))
    assert (len(data.train), len(data.calibration), len(data.validation)) == (9, 3, 4)
    # 64x32 stands between 16 grey rows above and below; the box is the middle quarter of its width, half its height
    np.testing.assert_allclose(data.validation.target(1), [[1, 24, 24, 40, 40]])
    assert (data.validation.image(1)[:16] == 114).all() and data.validation.image(1)[16:48].std() > 50


def test_calibration_is_held_out_of_training_by_seed(yolo_folder: Path) -> None:
    data, again, other = open_yolo(yolo_folder), open_yolo(yolo_folder), open_yolo(yolo_folder, seed=1)
    assert not set(names(data.calibration)) & set(names(data.train))
    assert names(data.calibration) == names(again.calibration) != names(other.calibration)


def test_too_many_calibration_images_leave_two_thirds_to_train(
    yolo_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        data = open_yolo(yolo_folder, calibration_images=300)
    assert (len(data.train), len(data.calibration)) == (8, 4)
    assert "300" in caplog.text


def test_calibration_txt_is_used_in_its_order_and_not_trained_on(yolo_folder: Path) -> None:
    (yolo_folder / "calibration.txt").write_text("images/train/5.png\nimages/train/2.png\n")
    data = open_yolo(yolo_folder)
    assert [Path(name).name for name in names(data.calibration)] == ["5.png", "2.png"]
    assert len(data.train) == 10 and not set(names(data.calibration)) & set(names(data.train))


def test_calibration_txt_may_not_list_validation_images(yolo_folder: Path) -> None:
    (yolo_folder / "calibration.txt").write_text("images/val/0.png\n")
    with pytest.raises(UserError, match="must not overlap"):
        open_yolo(yolo_folder)


def test_a_copy_of_a_training_image_in_validation_is_refused(yolo_folder: Path) -> None:
    shutil.copy(yolo_folder / "images/train/3.png", yolo_folder / "images/val/renamed.png")
    with pytest.raises(UserError, match=r"renamed\.png.*3\.png.*must not overlap"):
        open_yolo(yolo_folder)


def test_lists_names_by_number_and_test_split(yolo_folder: Path) -> None:
    (yolo_folder / "some.txt").write_text("./images/train/0.png\n\nimages/train/1.png\nimages/train/2.png\n")
    (yolo_folder / "data.yaml").write_text(
        "train: [some.txt]\nval: images/val\ntest: images/train/../test\nnames: {0: cat, 1: dog}\nnc: 2\n"
    )
    shutil.copytree(yolo_folder / "images/val", yolo_folder / "images/test")
    data = open_yolo(yolo_folder, calibration_images=1, test=True)
    assert len(data.train) + len(data.calibration) == 3 and len(data.extra["test"]) == 4


def test_validation_images_does_not_change_the_identity_of_the_data(yolo_folder: Path) -> None:
    whole, part = open_yolo(yolo_folder), open_yolo(yolo_folder, validation_images=2)
    assert len(part.validation) == 2 and set(names(part.validation)) < set(names(whole.validation))
    assert part.fingerprint == whole.fingerprint


def test_calibration_is_drawn_from_the_whole_list(yolo_folder: Path) -> None:
    for i in range(12):  # the first half of the list shows one class, the second the other
        (yolo_folder / f"labels/train/{i}.txt").write_text(f"{i // 6} 0.5 0.5 0.25 0.5\n")
    (yolo_folder / "calibration.txt").write_text("".join(f"images/train/{i}.png\n" for i in [*range(4), *range(8, 12)]))
    data = open_yolo(yolo_folder, calibration_images=4)
    classes = [int(sample.label[0, 0]) for sample in data.calibration.samples]
    assert sorted(classes) == [0, 0, 1, 1]


def test_the_fingerprint_follows_contents_not_place(
    yolo_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = open_yolo(yolo_folder).fingerprint
    moved = tmp_path_factory.mktemp("moved") / "there"
    shutil.copytree(yolo_folder, moved)
    assert open_yolo(moved).fingerprint == before
    (moved / "labels/val/0.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    assert open_yolo(moved).fingerprint != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/train\nval: images/val\n", "has no `names`"),
        ("train: images/train\nnames: [a, b]\n", "has no `val`"),
        ("train: nowhere\nval: images/val\nnames: [a, b]\n", "train=nowhere: no such folder"),
        (
            "path: nowhere\ntrain: images/train\nval: images/val\nnames: [a, b]\n",
            "path=nowhere: no such folder",
        ),
        ("train: images\nval: labels\nnames: [a, b]\n", "val=labels: no images"),
        ("train: images/train\nval: images/val\nnames: {1: a, 2: b}\n", "from 0 without gaps"),
        ("train: images/train\nval: images/val\nnames: [a, b]\nnc: 3\n", "2 entries"),
        ("train: images/train\nval: images/val\nnames: [a]\n", "class 1 is out of range"),
        ("train: [images/train\n", "not a valid YAML"),
        ("just words\n", "must have keys"),
    ],
)
def test_a_yaml_at_fault_is_named(yolo_folder: Path, text: str, message: str) -> None:
    (yolo_folder / "data.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        open_yolo(yolo_folder)
    assert message in str(caught.value) and str(yolo_folder) in str(caught.value)


def test_a_missing_yaml_and_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        open_yolo(tmp_path)
    with pytest.raises(UserError, match=r"data\.path"):
        load(DataConfig(name="yolo"), 64, 3, 0)


def test_a_line_of_a_list_that_points_nowhere_is_named(yolo_folder: Path) -> None:
    (yolo_folder / "calibration.txt").write_text("images/train/1.png\nimages/train/gone.png\n")
    with pytest.raises(UserError, match=r"calibration\.txt:2=images/train/gone\.png"):
        open_yolo(yolo_folder)


def test_a_training_split_without_labels_is_refused(yolo_folder: Path) -> None:
    shutil.rmtree(yolo_folder / "labels/train")
    with pytest.raises(UserError, match=r"no image has a label.*labels/train/0\.txt"):
        open_yolo(yolo_folder)


def test_an_image_that_is_none_is_named(yolo_folder: Path) -> None:
    (yolo_folder / "images/val/2.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"val/2\.png.*cannot be read"):
        open_yolo(yolo_folder)


def test_an_image_cut_short_is_named_when_it_is_read(yolo_folder: Path) -> None:
    file = yolo_folder / "images/val/2.png"
    file.write_bytes(file.read_bytes()[:60])
    data = open_yolo(yolo_folder)
    with pytest.raises(UserError, match=r"val/2\.png.*cannot be decoded"):
        data.validation.image(2)


def test_an_absent_test_split_is_said(yolo_folder: Path) -> None:
    with pytest.raises(UserError, match=r"data\.test.*has no test split"):
        open_yolo(yolo_folder, test=True)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
RECURSIVE = "train: images/train\nval: images/val\nnames: &n [cat, *n]\n"


REFUSED: dict[str, tuple[Change, str]] = {
    "names number": (text("train: images/train\nval: images/val\nnames: 5\n"), "names"),
    "names word": (text("train: images/train\nval: images/val\nnames: cat\n"), "names"),
    "names dicts": (text("train: images/train\nval: images/val\nnames: [{a: 1}, {b: 2}]\n"), "names"),
    "names twice": (text("train: images/train\nval: images/val\nnames: [cat, cat]\n"), "names"),
    "names empty": (text("train: images/train\nval: images/val\nnames: ['', dog]\n"), "names"),
    "names null": (text("train: images/train\nval: images/val\nnames: [null, dog]\n"), "names"),
    "names nested": (text("train: images/train\nval: images/val\nnames: [[a], [b]]\n"), "names"),
    "names none": (text("train: images/train\nval: images/val\nnames: []\n"), "names"),
    "names with gaps": (text("train: images/train\nval: images/val\nnames: {0: a, 5: b}\n"), "names"),
    "names recursive": (text(RECURSIVE), "names"),
    "nc word": (text(YAML + "nc: many\n"), "nc"),
    "billion laughs": (text(LAUGHS + "train: *m\nval: *m\nnames: *m\n"), "data.yaml"),
    "billion laughs in train": (text(LAUGHS + "train: *m\nval: images/val\nnames: [cat, dog]\n"), "train"),
    "billion laughs as path": (text(LAUGHS + "path: *m\n" + YAML), "path"),
    "billion laughs as nc": (text(LAUGHS + "nc: *m\n" + YAML), "nc"),
    "yaml tag": (text("!!python/object/apply:os.system ['true']\n"), "data.yaml"),
    "yaml binary": (text(bytes(range(256))), "data.yaml"),
    "yaml empty": (text(""), "data.yaml"),
    "yaml list": (text("[1, 2]\n"), "data.yaml"),
    "yaml deep": (text("[" * 100_000), "data.yaml"),
    "train is a dict": (text("train: {a: 1}\nval: images/val\nnames: [a, b]\n"), "train"),
    "train is a number": (text("train: 5\nval: images/val\nnames: [a, b]\n"), "train"),
    "train is an image": (text("train: images/train/0.png\nval: images/val\nnames: [a, b]\n"), "train"),
    "train has a NUL": (text('train: "a\\0b"\nval: images/val\nnames: [a, b]\n'), "train"),
    "train too long": (text(f"train: {'x' * 5000}\nval: images/val\nnames: [a, b]\n"), "train"),
    "path is a list": (text("path: [a]\n" + YAML), "path"),
    "train and val alike": (text("train: images/val\nval: images/val\nnames: [cat, dog]\n"), "overlap"),
    "train twice": (text("train: images\nval: images/val\nnames: [cat, dog]\n"), "overlap"),
    "list of nothing": (
        in_turn(text("train: t.txt\nval: images/val\nnames: [a, b]\n"), put("t.txt", "")),
        "t",
    ),
    "list binary": (
        in_turn(text("train: t.txt\nval: images/val\nnames: [a, b]\n"), put("t.txt", bytes(range(256)))),
        "t.txt",
    ),
    "list of folders": (
        in_turn(text("train: t.txt\nval: images/val\nnames: [a, b]\n"), put("t.txt", "images/train\n")),
        "t.txt:1",
    ),
    "calibration binary": (put("calibration.txt", b"\xff\xfe\x00"), "calibration.txt"),
    "calibration of val": (put("calibration.txt", "images/val/0.png\n"), "overlap"),
    "yaml is a folder": (
        in_turn(lambda f: (f / "data.yaml").unlink(), lambda f: (f / "data.yaml").mkdir()),
        "data.yaml",
    ),
    "val empty": (lambda f: only(f, 0, "val"), "val"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_that_names_the_place(case: str, yolo_folder: Path) -> None:
    assert_refused(*REFUSED[case], yolo_folder, open_whole)


READ: dict[str, Change] = {
    "yaml byte order mark": text("\ufeff" + YAML),
    "yaml windows": text(YAML.replace("\n", "\r\n")),
    "one training image": lambda f: only(f, 1),
    "absolute list": lambda f: (
        put("t.txt", "".join(f"{f}/images/train/{i}.png\n" for i in range(5)))(f),
        text("train: t.txt\nval: images/val\nnames: [cat, dog]\n")(f),
    ),
    "list with a byte order mark": lambda f: (
        put("t.txt", "\ufeffimages/train/0.png\r\nimages/train/1.png\r\n")(f),
        text("train: t.txt\nval: images/val\nnames: [cat, dog]\n")(f),
    ),
}


@pytest.mark.parametrize("case", READ)
def test_read_as_it_should_be(case: str, yolo_folder: Path) -> None:
    READ[case](yolo_folder)
    open_whole(yolo_folder)


def test_a_path_of_the_wrong_kind(yolo_folder: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read(load(DataConfig(name="yolo", path=str(yolo_folder)), 32, 3, 0))


def keypoint_folder(folder: Path, lines: str) -> None:
    """Turns the labels into boxes with two keypoints, and adds lines to the YAML."""
    for file in (folder / "labels").rglob("*.txt"):
        file.write_text("1 0.5 0.5 0.25 0.5 0.4 0.5 2 0.6 0.5 0\n")
    with (folder / "data.yaml").open("a") as yaml:
        yaml.write(lines)


def test_keypoints_are_those_of_the_yaml(yolo_folder: Path) -> None:
    keypoint_folder(yolo_folder, "kpt_shape: [2, 3]\nflip_idx: [1, 0]\n")
    data = open_yolo(yolo_folder, task="pose")
    assert getattr(data.task, "keypoints", None) == (2, 3) and getattr(data.task, "flip_index", None) == (1, 0)
    # the second one is not labelled: its place means nothing
    np.testing.assert_allclose(data.validation.target(1).points[0], [25.6, 32, 2], rtol=1e-5)
    assert data.validation.target(1).points[1, 2] == 0


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", r"kpt_shape=None: set the number of keypoints"),
        ("kpt_shape: [2, 4]\n", r"kpt_shape=\[2, 4\]"),
        ("kpt_shape: 17\n", r"kpt_shape=17"),
        ("kpt_shape: [2, 3]\nflip_idx: [0, 0]\n", r"flip_idx=\[0, 0\]: set which of the 2"),
        ("kpt_shape: [3, 3]\n", r"\.txt:1.*columns instead of 14.*3 keypoints of 3 numbers"),
    ],
)
def test_keypoints_that_the_yaml_does_not_describe_are_refused(yolo_folder: Path, lines: str, message: str) -> None:
    keypoint_folder(yolo_folder, lines)
    with pytest.raises(UserError, match=message):
        open_yolo(yolo_folder, task="pose")


def test_without_flip_idx_images_are_not_mirrored(yolo_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    keypoint_folder(yolo_folder, "kpt_shape: [2, 3]\n")
    with caplog.at_level(logging.WARNING):
        assert getattr(open_yolo(yolo_folder, task="pose").task, "flip_index", 0) is None
    assert "no flip_idx: images are not mirrored" in caplog.text


def test_keypoints_are_not_read_as_polygons(yolo_folder: Path) -> None:
    keypoint_folder(yolo_folder, "kpt_shape: [2, 3]\n")
    for task in (None, "segment"):
        with pytest.raises(UserError, match=r"kpt_shape=\[2, 3\]: these are labels for pose.*use a -pose model"):
            open_yolo(yolo_folder, task=task)


def test_without_labels_no_label_is_read(yolo_folder: Path) -> None:
    config = DataConfig(name="yolo", path=str(yolo_folder / "data.yaml"), calibration_images=2)
    labelled = load(config, 64, 3, 0)
    shutil.rmtree(yolo_folder / "labels")
    with pytest.raises(UserError, match="no image has a label"):
        load(config, 64, 3, 0)
    bare = load(replace(config, labels=False), 64, 3, 0)
    assert bare.train.samples[0].label == NO_LABEL and not bare.validation.labelled
    for name in ("train", "calibration", "validation"):
        assert [each.source for each in getattr(bare, name).samples] == [
            each.source for each in getattr(labelled, name).samples
        ]
    assert bare.fingerprint != labelled.fingerprint
