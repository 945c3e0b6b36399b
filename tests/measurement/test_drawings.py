from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from compress.cache import Cache
from compress.config import Config
from compress.data import DataSet, Sample, without_images
from compress.measurement import drawings
from compress.product import Product
from compress.tasks import CLASSIFY
from tests.fakes import FakeModel


def model(seed: int = 0) -> FakeModel:
    torch.manual_seed(seed)
    return FakeModel(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3)))


def dataset() -> DataSet:
    rng = np.random.default_rng(0)
    samples = [Sample(rng.integers(0, 256, (16, 16, 3), np.uint8), index % 3, (16, 16)) for index in range(6)]
    empty = without_images(CLASSIFY, ("a", "b", "c"), 16, 3)
    return replace(empty, validation=replace(empty.validation, samples=samples))


def test_columns_are_labels_baseline_and_result(tmp_path: Path) -> None:
    drawings.draw(tmp_path, dataset(), model(), Product(model(1)), Config(seed=1))
    index = json.loads((tmp_path / "drawings/index.json").read_text())
    assert index["columns"] == ["labels", "baseline, torch", "result, torch"]
    assert len(index["rows"]) == min(drawings.IMAGES, 6 - len(index["worst"]))
    for row in index["rows"]:
        for name in row:
            image = cv2.imread(str(tmp_path / "drawings" / name))
            assert image is not None and image.shape == (drawings.SIDE, drawings.SIDE, 3)


def test_nothing_is_drawn_without_images(tmp_path: Path) -> None:
    drawings.draw(tmp_path, without_images(CLASSIFY, ("a",), 16, 3), model(), Product(model()), Config())
    assert not any(tmp_path.iterdir())


def test_the_same_seed_draws_the_same_images(tmp_path: Path) -> None:
    baseline = model()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        drawings.draw(tmp_path / name, dataset(), baseline, Product(baseline), Config())
    files = sorted((tmp_path / "a/drawings").iterdir())
    assert files and all(file.read_bytes() == (tmp_path / "b/drawings" / file.name).read_bytes() for file in files)
    assert np.any(cv2.imread(str(next(file for file in files if file.suffix == ".jpg"))))


def test_the_largest_disagreements_are_drawn_with_their_agreement(tmp_path: Path) -> None:
    """The result takes class 0 for class 1 and the other way round: they disagree wherever one of these is first."""
    baseline, swapped = model(), model()
    weights = {name: tensor[[1, 0, 2]] for name, tensor in baseline.net.state_dict().items()}
    swapped.net.load_state_dict(weights)
    drawings.draw(tmp_path, dataset(), baseline, Product(swapped), Config(seed=1))
    index = json.loads((tmp_path / "drawings/index.json").read_text())
    assert index["compared"] == 6 and index["definition"] == CLASSIFY.agreement
    found = [each["agreement"] for each in index["worst"]]
    assert found and found == sorted(found, key=lambda values: values[2])
    assert all(values[:2] == [None, None] and values[2] < 1 for values in found)
    assert index["agreement"][:2] == [None, None] and found[0][2] <= index["agreement"][2] < 1
    files = [name for each in index["worst"] for name in each["files"]]
    assert len(files) == 3 * len(found) and all((tmp_path / "drawings" / name).is_file() for name in files)


def test_equal_models_have_no_disagreements(tmp_path: Path) -> None:
    same = model()
    drawings.draw(tmp_path, dataset(), same, Product(replace(same)), Config())
    index = json.loads((tmp_path / "drawings/index.json").read_text())
    assert index["worst"] == [] and index["agreement"] == [None, None, 1.0]


def test_files_become_smaller_if_they_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    for limit in (drawings.MOST_BYTES, 1):
        monkeypatch.setattr(drawings, "MOST_BYTES", limit)
        drawings.draw(tmp_path, dataset(), model(), Product(model()), Config())
        sizes.append(sum(file.stat().st_size for file in (tmp_path / "drawings").glob("*.jpg")))
    assert sizes[1] < 0.7 * sizes[0]


def test_the_drawings_of_an_earlier_run_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, arguments = Cache(tmp_path / "cache"), (dataset(), model(), Product(model(1)), Config(seed=1))
    drawings.write(tmp_path / "first", *arguments, cache)
    monkeypatch.setattr(drawings, "draw", lambda *_: pytest.fail("drawn again"))
    drawings.write(tmp_path / "second", *arguments, cache)
    first, second = (sorted((tmp_path / name / "drawings").iterdir()) for name in ("first", "second"))
    assert [file.name for file in first] == [file.name for file in second] and first
    with pytest.raises(pytest.fail.Exception, match="drawn again"):
        drawings.write(tmp_path / "third", dataset(), model(), Product(model(2)), Config(seed=1), cache)
