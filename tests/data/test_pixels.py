"""Files of 8 and 16 bits with any number of channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from compress.config import DataConfig
from compress.data import Sample, Split, files, load, pixels
from compress.errors import UserError
from compress.tasks import CLASSIFY

HEIGHT, WIDTH = 20, 30


def noise(channels: int, dtype: type = np.uint8) -> np.ndarray:
    top = np.iinfo(dtype).max + 1
    return np.random.default_rng(channels).integers(0, top, (HEIGHT, WIDTH, channels), dtype)


def write(path: Path, image: np.ndarray) -> None:
    """A file without loss. OpenCV writes blue first."""
    if path.suffix == ".npy":
        np.save(path, image)
    else:
        assert cv2.imwrite(str(path), image[:, :, ::-1] if image.shape[2] == 3 else image)


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.npy"])
@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_stay_bytes_and_16_bits_stay_exact(name: str, channels: int, tmp_path: Path) -> None:
    for dtype in (np.uint8, np.uint16):
        image = noise(channels, dtype)
        write(tmp_path / name, image)
        decoded = pixels.decode(tmp_path / name, channels)
        assert files.probe(tmp_path / name)[0] == (WIDTH, HEIGHT)
        assert decoded.dtype == (np.uint8 if dtype is np.uint8 else np.float32)
        np.testing.assert_array_equal(decoded, image if dtype is np.uint8 else (image / np.float32(257)))


def test_16_bits_reach_the_network_as_fractions_of_65535(tmp_path: Path) -> None:
    """12-bit data in 16-bit files: the upper byte alone would have 16 levels."""
    image = np.arange(16, dtype=np.uint16).reshape(4, 4, 1)
    write(tmp_path / "x.png", image)
    split = Split(
        "s", [Sample(tmp_path / "x.png", 0, (4, 4)), Sample(image.astype(np.uint8), 1, (4, 4))], 4, 1, CLASSIFY
    )
    batch = CLASSIFY.collate([split.image(0), split.image(1)], [0, 1], split.augmentation, None)["img"].numpy()
    np.testing.assert_allclose(batch[0, 0], image[:, :, 0] / 65535, rtol=1e-6)
    np.testing.assert_allclose(batch[1, 0], image[:, :, 0] / 255, rtol=1e-6)
    wide = Split("s", [Sample(np.full((2, 8, 5), 65535, np.uint16), 0, (8, 2))], 8, 5, CLASSIFY).image(0)
    assert wide.shape == (8, 8, 5) and set(np.unique(wide)) == {114, 255}  # grey above and below


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp"])
def test_files_of_8_bits_are_decoded_as_opencv_does(mode: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    try:
        Image.fromarray(noise(4), "RGBA").convert(mode).save(path)
    except OSError:
        pytest.skip("the format has no such mode")
    for channels, flag in ((1, cv2.IMREAD_GRAYSCALE), (3, cv2.IMREAD_COLOR_RGB)):
        expected = cv2.imread(str(path), flag)
        assert expected is not None
        np.testing.assert_array_equal(pixels.decode(path, channels), expected.reshape(HEIGHT, WIDTH, channels))


LAYOUTS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "bands of a page": lambda p, a: tifffile.imwrite(p, a, photometric="minisblack", planarconfig="contig"),
    "planes of a page": lambda p, a: tifffile.imwrite(
        p, np.moveaxis(a, 2, 0), photometric="minisblack", planarconfig="separate"
    ),
    "pages": lambda p, a: tifffile.imwrite(p, np.moveaxis(a, 2, 0), photometric="minisblack"),
    "big-endian tiles": lambda p, a: tifffile.imwrite(
        p, a, photometric="minisblack", planarconfig="contig", byteorder=">", tile=(16, 16), compression="zlib"
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [2, 4, 5, 13])
def test_bands_of_tiff_files_come_in_their_order(layout: str, channels: int, tmp_path: Path) -> None:
    for dtype in (np.uint8, np.uint16):
        image = noise(channels, dtype)
        LAYOUTS[layout](tmp_path / "x.tif", image)
        assert files.probe(tmp_path / "x.tif")[0] == (WIDTH, HEIGHT)
        decoded = pixels.decode(tmp_path / "x.tif", channels)
        np.testing.assert_array_equal(decoded, image if dtype is np.uint8 else image / np.float32(257))


def test_rgba_comes_in_that_order(tmp_path: Path) -> None:
    Image.fromarray(noise(4), "RGBA").save(tmp_path / "x.png")
    np.testing.assert_array_equal(pixels.decode(tmp_path / "x.png", 4), noise(4))


def test_arrays_are_converted_between_grey_and_colour() -> None:
    colour = noise(3)
    np.testing.assert_array_equal(pixels.decode(colour, 1)[:, :, 0], cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY))
    np.testing.assert_array_equal(pixels.decode(colour[:, :, 0], 3), np.repeat(colour[:, :, :1], 3, axis=2))


OTHERS: dict[str, Callable[[Path], object]] = {
    "x.jpg": lambda path: write(path, noise(3)),
    "x.png": lambda path: write(path, noise(1)),
    "x.tif": lambda path: LAYOUTS["bands of a page"](path, noise(6)),
    "x.npy": lambda path: np.save(path, noise(5).transpose(2, 0, 1)),  # channels first
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_number_of_channels_is_one_error_before_work_starts(name: str, tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 1)):
        (tmp_path / split / "a").mkdir(parents=True)
        for index in range(count):
            path = tmp_path / split / "a" / f"{split}{index}{name}"
            OTHERS[name](path)
            path.write_bytes(path.read_bytes() + path.name.encode())  # different files; decoders ignore the rest
    with pytest.raises(UserError, match=r"^model\.channels=5: .*x\.\w+ has \d+ channels: set model\.channels"):
        load(DataConfig(name="image_folder", path=str(tmp_path), calibration_images=1), 32, 5, 0)


def test_five_bands_for_a_network_of_three(tmp_path: Path) -> None:
    LAYOUTS["bands of a page"](tmp_path / "x.tif", noise(5))
    with pytest.raises(UserError, match=r"^model\.channels=3: .*x\.tif has 5 channels"):
        pixels.decode(tmp_path / "x.tif", 3)


def cut(path: Path, write: Callable[[Path], object]) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:-100])


def turned(path: Path) -> None:
    tag = (pixels.ORIENTATION, "H", 1, 6, True)
    tifffile.imwrite(path, noise(5), photometric="minisblack", planarconfig="contig", extratags=[tag])


def vast(path: Path) -> None:
    """A file of some hundred bytes that states 10**10 values."""
    tifffile.imwrite(path, noise(5), photometric="minisblack", planarconfig="contig")
    with tifffile.TiffFile(path, mode="r+") as file:
        for name in ("ImageWidth", "ImageLength"):
            file.pages.first.tags[name].overwrite(50_000)


FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "objects": ("x.npy", lambda p: np.save(p, np.array([{}]), allow_pickle=True), "Python objects"),
    "pickle": ("x.npy", lambda p: p.write_bytes(b"\x80\x04N."), "magic"),
    "zip": ("x.npy", lambda p: np.savez(p.open("wb"), a=noise(3)), "magic"),
    "empty array file": ("x.npy", lambda p: p.touch(), "x.npy"),
    "cut array": ("x.npy", lambda p: cut(p, lambda q: np.save(q, noise(5))), "file size"),
    "fractions": ("x.npy", lambda p: np.save(p, noise(5) / 255), "float64; expected uint8 or uint16"),
    "no image": ("x.npy", lambda p: np.save(p, noise(5)[0, 0]), "(height, width, channels)"),
    "no pixels": ("x.npy", lambda p: np.save(p, noise(5)[:0]), "(height, width, channels)"),
    "cut bands": ("x.tif", lambda p: cut(p, lambda q: LAYOUTS["bands of a page"](q, noise(5))), "x.tif"),
    "cut colours": ("x.tif", lambda p: cut(p, lambda q: tifffile.imwrite(q, noise(3), photometric="rgb")), "x.tif"),
    "cut header": ("x.tif", lambda p: p.write_bytes(b"II*\0\x08\0\0\0"), "x.tif"),
    "text": ("x.tif", lambda p: p.write_text("hello"), "x.tif"),
    "float bands": (
        "x.tif",
        lambda p: LAYOUTS["bands of a page"](p, noise(5).astype(np.float32)),
        "x.tif",
    ),
    "signed": ("x.tif", lambda p: tifffile.imwrite(p, noise(1)[:, :, 0].astype(np.int16)), "x.tif"),
    "turned": ("x.tif", turned, "orientation is 6"),
    "vast": ("x.tif", vast, "too large"),
}


@pytest.mark.parametrize("case", FAULTS)
@pytest.mark.parametrize("channels", [3, 5])
def test_files_at_fault_are_one_error(case: str, channels: int, tmp_path: Path) -> None:
    name, make, says = FAULTS[case]
    make(tmp_path / name)
    with pytest.raises(UserError) as caught:
        files.probe(tmp_path / name)
        pixels.decode(tmp_path / name, channels)
    assert says in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_codec_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["bands of a page"](tmp_path / "x.tif", noise(5))

    def fail(*_: object, **__: object) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", fail)
    with pytest.raises(UserError, match=r"x\.tif.*requires the 'imagecodecs' package"):
        pixels.decode(tmp_path / "x.tif", 5)


def test_copies_that_ultralytics_keeps_are_not_images(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.npy", "b.npy", "c.NPY"):
        (tmp_path / name).touch()
    assert [path.name for path in files.image_files(tmp_path)] == ["a.jpg", "b.npy", "c.NPY"]
