"""COCO's JSON format."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.config import DataConfig
from compress.data import DataSet, coco, load
from compress.errors import UserError
from tests.data.conftest import write_image
from tests.data.faults import read

Content = dict[str, Any]
TRAIN, VAL = "annotations/instances_train2017.json", "annotations/instances_val2017.json"


def content(first: int, count: int) -> Content:
    """Images of 64x32 pixels with a box each; categories 7 and 3, in that order."""
    numbers = range(first, first + count)
    return {
        "info": {},
        "images": [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 32} for n in numbers],
        "annotations": [
            {"id": n, "image_id": n, "category_id": (3, 7)[n % 2], "bbox": [16, 8, 32, 16], "iscrowd": 0}
            for n in numbers
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, first, count in (("train2017", 0, 12), ("val2017", 20, 4)):
        made = content(first, count)
        for image in made["images"]:
            write_image(tmp_path / split / image["file_name"], 64, 32, image["id"])
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / f"annotations/instances_{split}.json").write_text(json.dumps(made))
    return tmp_path


def open_coco(folder: Path, imgsz: int = 64, **options: Any) -> DataSet:
    return load(DataConfig(name="coco", path=str(folder), calibration_images=3, **options), imgsz, 3, 0)


def change(path: Path, edit: Callable[[Content], object]) -> None:
    made = json.loads(path.read_text())
    edit(made)
    path.write_text(json.dumps(made))


def test_categories_are_classes_in_the_order_of_their_ids(folder: Path) -> None:
    data = open_coco(folder)
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.calibration), len(data.validation)) == (9, 3, 4)
    # 64x32 stands between 16 grey rows above and below
    np.testing.assert_allclose(data.validation.target(0), [[0, 16, 24, 48, 40]])
    np.testing.assert_allclose(data.validation.target(1), [[1, 16, 24, 48, 40]])
    read(open_coco(folder, 32))


def roboflow(folder: Path) -> None:
    for split, name in (("train2017", "train"), ("val2017", "valid")):
        (folder / split).rename(folder / name)
        (folder / f"annotations/instances_{split}.json").rename(folder / name / "_annotations.coco.json")


def below_images(folder: Path) -> None:
    (folder / "images").mkdir()
    for split in ("train2017", "val2017"):
        (folder / split).rename(folder / "images" / split)


def from_the_root(folder: Path) -> None:
    for split in ("train2017", "val2017"):
        path = folder / f"annotations/instances_{split}.json"
        path.write_text(path.read_text().replace('"file_name": "', f'"file_name": "{split}/'))


@pytest.mark.parametrize("arrange", [roboflow, below_images, from_the_root])
def test_usual_folders_are_recognised_and_the_fingerprint_stays(arrange: Callable[[Path], None], folder: Path) -> None:
    before = open_coco(folder)
    arrange(folder)
    after = open_coco(folder)
    assert after.fingerprint == before.fingerprint and len(after.train) == 9


def test_files_may_be_named(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = open_coco(folder)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "val2017.json"
    (folder / VAL).rename(elsewhere)
    shutil.copy(folder / TRAIN, folder / "annotations/instances_train2014.json")
    with pytest.raises(UserError, match=r"data\.annotations\.train=None: set it to one of .*2014\.json, .*2017\.json"):
        open_coco(folder)
    with pytest.raises(UserError, match=r"set data\.annotations\.val$"):
        open_coco(folder, annotations={"train": TRAIN})
    assert open_coco(folder, annotations={"train": TRAIN, "val": str(elsewhere)}).fingerprint == before.fingerprint
    with pytest.raises(UserError, match=r"data\.annotations\.val=none\.json: no such file"):
        open_coco(folder, annotations={"train": TRAIN, "val": "none.json"})


def test_without_train_and_with_test(folder: Path) -> None:
    (folder / TRAIN).rename(folder / "annotations/instances_test.json")
    (folder / "train2017").rename(folder / "test")
    assert set(open_coco(folder).extra) == set()
    data = open_coco(folder, test=True)
    assert (len(data.train), len(data.calibration), len(data.extra["test"])) == (0, 0, 12)


def test_crowds_and_boxes_without_area_are_left_out_and_boxes_are_clipped(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def edit(made: Content) -> None:
        first, second, third, _ = made["annotations"]
        first["iscrowd"] = 1
        second["bbox"] = [10, 10, 0, 5]
        third["bbox"] = [-10.5, -3, 26.5, 19]
        made["annotations"] += [{**third, "id": 99, "bbox": [64, 3, 9, 9]}, {**third, "id": 98, "category_id": 7}]
        made["annotations"].reverse()

    change(folder / VAL, edit)
    with caplog.at_level(logging.WARNING):
        data = open_coco(folder)
    assert "1 crowds and 2 boxes without area are left out" in caplog.text
    labels = [sample.label for sample in data.validation.samples]
    assert [len(label) for label in labels] == [0, 0, 2, 1]
    np.testing.assert_allclose(labels[2], [[1, 0.125, 0.25, 0.25, 0.5], [0, 0.125, 0.25, 0.25, 0.5]])


def test_boxes_refer_to_the_stated_size_and_to_that_of_the_file_without_one(folder: Path) -> None:
    change(folder / VAL, lambda c: [i.update(width=128, height=64) for i in c["images"]])
    change(folder / VAL, lambda c: c["images"][1].pop("width"))
    labels = [sample.label for sample in open_coco(folder).validation.samples]
    np.testing.assert_allclose(labels[0], [[0, 0.25, 0.25, 0.25, 0.25]])
    np.testing.assert_allclose(labels[1], [[1, 0.5, 0.5, 0.5, 0.5]])


def annotation(**values: object) -> Callable[[Content], object]:
    return lambda made: made["annotations"][2].update(values)


def image(**values: object) -> Callable[[Content], object]:
    return lambda made: made["images"][2].update(values)


FAULTS: dict[str, tuple[Callable[[Content], object], str]] = {
    "unknown image": (
        annotation(image_id=999),
        "annotations[2].image_id=999: the file has no such image (1 annotations",
    ),
    "unknown category": (annotation(category_id=5), "annotations[2].category_id=5: the file has no such category"),
    "no box": (lambda c: c["annotations"][2].pop("bbox"), "annotations[2].bbox=None: expected four numbers"),
    "three numbers": (annotation(bbox=[1, 2, 3]), "annotations[2].bbox=[1, 2, 3]"),
    "words": (annotation(bbox=["1", "2", "3", "4"]), "annotations[2].bbox"),
    "NaN": (annotation(bbox=[1, 2, float("nan"), 4]), "annotations[2].bbox"),
    "infinite": (annotation(bbox=[1, 2, float("inf"), 4]), "annotations[2].bbox"),
    "huge": (annotation(bbox=[1, 2, 10**400, 4]), "annotations[2].bbox"),
    "image id as text": (annotation(image_id="22"), "annotations[2].image_id=22: expected an integer"),
    "id beyond 64 bits": (annotation(image_id=2**80), "annotations[2].image_id"),
    "annotation id twice": (annotation(id=21), "annotations=id 21: the id occurs twice"),
    "image id twice": (image(id=21), "images[2].id=21: the id occurs twice"),
    "category id twice": (lambda c: c["categories"][1].update(id=7), "categories[1].id=7: the id occurs twice"),
    "category name twice": (lambda c: c["categories"][1].update(name="dog"), "categories=duplicates"),
    "no category name": (lambda c: c["categories"][1].pop("name"), "categories[1].name=None: expected a name"),
    "file twice": (image(file_name="21.png"), "images=21.png: the file is listed twice"),
    "no file name": (lambda c: c["images"][2].pop("file_name"), "images[2].file_name=None"),
    "zero byte": (image(file_name="a\0b"), "images[2].file_name"),
    "size as text": (image(width="64"), "images[2].width=64: expected an integer"),
    "negative size": (image(width=-64), "images[2]=-64x32"),
    "turned": (image(width=32, height=64), "22.png=32x64: the image has 64x32 pixels (upright)"),
    "no images": (lambda c: c["images"].clear(), "it has no images"),
    "no annotations": (lambda c: c.pop("annotations"), "it has no annotations"),
    "no categories": (lambda c: c["categories"].clear(), "it has no categories"),
    "other categories": (lambda c: c["categories"][0].update(name="cow"), "train2017.json: categories=2: those of"),
    "images are numbers": (lambda c: c.update(images=[1]), "images[0]=int: a COCO file is an object"),
    "images is an object": (lambda c: c.update(images={"id": 1}), "images[0]"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_an_entry_at_fault_is_named(case: str, folder: Path) -> None:
    edit, says = FAULTS[case]
    change(folder / VAL, edit)
    with pytest.raises(UserError) as caught:
        open_coco(folder)
    assert says in str(caught.value) and ".json" in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


BROKEN = {
    "empty": b"",
    "cut": b'{"images": [{"id": 1, "file_na',
    "a list": b'[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]',
    "an empty object": b"{}",
    "text": b"hello",
    "no text": b'{"images": ["\xff\xfe"]}',
    "nested": b'{"images": ' + b"[" * 10**6,
    "digits": b'{"images": [{"id": ' + b"1" * 5000 + b"}]}",
    "two objects": b'{"images": []}{}',
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_is_not_coco_is_named(case: str, folder: Path) -> None:
    (folder / VAL).write_bytes(BROKEN[case])
    with pytest.raises(
        UserError, match=r"^data\.annotations=.*instances_val2017\.json: (this is not a valid COCO|it has)"
    ):
        open_coco(folder)


def test_missing_images_are_counted_and_the_first_is_named(folder: Path) -> None:
    for number in (2, 5):
        (folder / f"train2017/{number}.png").unlink()
    with pytest.raises(UserError, match=r"images=.*train2017/2\.png: no such file \(2 of 12 images are missing\)"):
        open_coco(folder)
    shutil.rmtree(folder / "train2017")
    with pytest.raises(UserError, match=r"images=0\.png: no such file; the images were looked for in .*train2017, "):
        open_coco(folder)


def test_a_missing_folder_and_an_empty_one(tmp_path: Path) -> None:
    for path in (None, str(tmp_path / "none")):
        with pytest.raises(UserError, match=r"^data\.path="):
            load(DataConfig(name="coco", path=path), 64, 3, 0)
    with pytest.raises(UserError, match=r"no annotations/instances_val\*\.json"):
        open_coco(tmp_path)


def test_the_content_of_a_file(folder: Path) -> None:
    content = coco.read(folder / VAL)
    assert content.images[21] == ("21.png", 64, 32) and content.categories == {7: "dog", 3: "cat"}
    np.testing.assert_array_equal(content.boxes[1], [7, 16, 8, 32, 16, 0])
    np.testing.assert_array_equal(content.owners, [20, 21, 22, 23])


def shaped(folder: Path, **values: object) -> None:
    """Adds values to the annotations of both files; those of keypoints are in files of their own name."""
    for name in (TRAIN, VAL):
        change(folder / name, lambda made: [item.update(values) for item in made["annotations"]])


def test_masks_are_read_for_segment(folder: Path) -> None:
    shaped(folder, segmentation=[[16, 8, 48, 8, 48, 24, 16, 24]])
    data = open_coco(folder, task="segment")
    target = data.validation.target(0)
    np.testing.assert_allclose(target.boxes, [[0, 16, 24, 48, 40]])
    np.testing.assert_allclose(target.points, [[16, 24], [48, 24], [48, 40], [16, 40]])
    assert data.task.name == "segment" and data.fingerprint != open_coco(folder).fingerprint


def test_a_mask_of_another_size_than_its_image_is_refused(folder: Path) -> None:
    shaped(folder, segmentation={"size": [64, 32], "counts": [40, 20, 64 * 32 - 60]})
    with pytest.raises(UserError, match=r"annotations\[0\]\.segmentation=.*the mask is 32x64 pixels, its image 64x32"):
        open_coco(folder, task="segment")


def test_keypoints_are_read_for_pose(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    shaped(folder, keypoints=[16, 8, 2, 48, 24, 1])
    change(folder / VAL, lambda made: made["annotations"][0].update(keypoints=[0] * 6))
    for name in (TRAIN, VAL):
        change(folder / name, lambda made: [c.update(keypoints=["left", "right"]) for c in made["categories"]])
        (folder / name).rename(folder / name.replace("instances", "person_keypoints"))
    with caplog.at_level(logging.WARNING):
        data = open_coco(folder, task="pose")
    assert "1 objects without a labelled keypoint" in caplog.text
    assert len(data.validation.target(0)) == 0
    np.testing.assert_allclose(data.validation.target(1).points, [[16, 24, 2], [48, 40, 1]])
    assert getattr(data.task, "flip_index", None) == (1, 0)


def test_there_are_no_turned_boxes(folder: Path) -> None:
    with pytest.raises(UserError, match=r"data\.task=obb: COCO files have no labels for obb.*data=yolo"):
        open_coco(folder, task="obb")
