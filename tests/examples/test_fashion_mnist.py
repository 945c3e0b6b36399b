from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from compress.config import DataConfig
from compress.data import load
from compress.errors import UserError
from compress.examples import fashion_mnist

COUNTS = {"train": ("train", 40), "validation": ("t10k", 20)}


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of the format of Fashion-MNIST, with few images."""
    monkeypatch.setattr(fashion_mnist, "FILES", COUNTS)
    monkeypatch.setattr(fashion_mnist, "CALIBRATION", 10)
    rng = np.random.default_rng(0)
    for prefix, count in COUNTS.values():
        images = rng.integers(256, size=(count, 28, 28))
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(count) % 10)))
    return tmp_path


def config(folder: Path) -> DataConfig:
    return DataConfig(name="fashion_mnist", path=str(folder), calibration_images=5)


def test_the_splits_are_fixed_and_disjoint(folder: Path) -> None:
    data, other_seed = load(config(folder), 28, 1, 0), load(config(folder), 28, 1, 5)
    assert (len(data.train), len(data.calibration), len(data.validation)) == (30, 5, 20)
    assert len(data.classes) == 10 and data.fingerprint == other_seed.fingerprint
    assert not {s.digest for s in data.train.samples} & {s.digest for s in data.calibration.samples}
    assert [data.validation.target(index) for index in range(12)] == [*range(10), 0, 1]
    pixels = np.frombuffer(gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8)
    np.testing.assert_array_equal(data.validation.image(3)[..., 0], pixels.reshape(20, 28, 28)[3])


def damaged(content: bytes) -> dict[str, bytes]:
    return {
        "cut": gzip.compress(content[:-1]), "longer": gzip.compress(content + b"0"), "no gzip": content,
        "a cut stream": gzip.compress(content)[:-20],
        "another number": gzip.compress(content.replace(b"\x28", b"\x29")),
        "a class too many": gzip.compress(content[:-1] + b"\x0a"),
    }  # fmt: skip


@pytest.mark.parametrize("damage", damaged(b""))
def test_damaged_files_are_refused(folder: Path, damage: str) -> None:
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(damaged(gzip.decompress(path.read_bytes()))[damage])
    with pytest.raises(UserError, match="Debian's package") as caught:
        load(config(folder), 28, 1, 0)
    assert caught.value.key == "data.path"


def test_a_missing_folder_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dataset-fashion-mnist"):
        load(config(tmp_path), 28, 1, 0)
