from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from compress.config import DataConfig
from compress.data import load
from compress.errors import UserError
from compress.examples import tree_crowns
from compress.examples.wheels import Wheel

SIZES = {"528000": (900, 1100), "541000": (1200, 820), "OSBS": (400, 400), "SOAP": (400, 400)}


def scene_files(wheel: Wheel, members: Mapping[str, str]) -> dict[str, bytes]:
    """Noise scenes with a white square of 40 pixels every 100, boxed as VOC does, in place of the photographs."""
    files: dict[str, bytes] = {}
    for name, size in SIZES.items():
        stem = next(member[:-4] for member in members if name in member)
        width, height = size
        image = np.random.default_rng(len(files)).integers(0, 99, (height, width, 3), np.uint8)
        boxes = []
        for x in range(10, width - 50, 100):
            for y in range(10, height - 50, 100):
                image[y : y + 40, x : x + 40] = 255
                corners = (("xmin", x + 1), ("ymin", y + 1), ("xmax", x + 40), ("ymax", y + 40))
                inner = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
                boxes.append(f"<object><name>Tree</name><bndbox>{inner}</bndbox></object>")
        files[f"{stem}.png"] = cv2.imencode(".png", image)[1].tobytes()
        files[f"{stem}.xml"] = f"<annotation>{''.join(boxes)}</annotation>".encode()
    assert set(files) == set(members)
    return files


def test_tiles_cover_the_scenes_and_boxes_sit_on_crowns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_crowns, "read_members", scene_files)
    data = load(DataConfig(name="tree_crowns", root=str(tmp_path), test=True), 400, 3, 0)
    # columns 0, 200, 400, 500 (flush) by rows 0, 200, 400, 600, 700 (flush)
    assert (len(data.train), len(data.calibration), len(data.validation), len(data.extra["shifted"])) == (
        20,
        12,
        6,
        2,
    )
    assert data.classes == ("tree",) and (tmp_path / "tree_crowns/data.yaml").is_file()
    for split in (data.train, data.validation, data.extra["shifted"]):
        for index in range(len(split)):
            for _, x1, y1, x2, y2 in np.rint(split.target(index)).astype(int).tolist():
                assert split.image(index)[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].min() > 200
    counted = sum(len(data.validation.target(i)) for i in range(len(data.validation)))
    assert counted == 12 * 8  # every crown of the validation scene, none twice
    assert [path.name for path in tmp_path.iterdir()] == ["tree_crowns"]


def test_nothing_is_fetched_twice_and_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(wheel: Wheel, members: Mapping[str, str]) -> dict[str, bytes]:
        raise UserError("data", wheel.project, "pip could not download it")

    monkeypatch.setattr(tree_crowns, "read_members", unreachable)
    with pytest.raises(UserError, match="deepforest"):
        tree_crowns.prepare(tmp_path)
    assert not any(tmp_path.iterdir())
    (tmp_path / "tree_crowns").mkdir()
    assert tree_crowns.prepare(tmp_path) == tmp_path / "tree_crowns"
