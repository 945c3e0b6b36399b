"""Reads size and content hash of image files without decoding them, and checks that splits do not overlap."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from compress.data import pixels
from compress.data.index import read_all
from compress.data.sample import Sample, Unlabelled
from compress.errors import UserError, one_line

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".npy", ".png", ".tif", ".tiff", ".webp"})
JPEG, JPEG_END = b"\xff\xd8", b"\xff\xd9"
HEAD = 65536  # bytes; their hash, with the file's length, identifies an image after a single read
ORIENTATION = 0x0112  # EXIF tag; values 5 to 8 swap width and height

ImageInfo = tuple[tuple[int, int], str]  # width and height in pixels, content hash


def image_files(folder: Path) -> list[Path]:
    """Lists all image files under a folder, sorted by path components. Links to folders are not followed.

    `x.npy` beside another image `x` is not listed: Ultralytics writes such copies (`cache=disk`).
    """
    files = []
    for root, folders, names in os.walk(folder):
        parts = {name: _split(name) for name in (*names, *folders)}
        images = {name: (stem, suffix) for name, (stem, suffix) in parts.items() if suffix in SUFFIXES}
        others = {stem for stem, suffix in images.values() if suffix != pixels.ARRAY}
        parent = Path(root)
        for name, (stem, suffix) in images.items():
            if suffix != pixels.ARRAY or stem not in others:
                files.append(((*parent.parts, name), parent / name))
    return [path for _, path in sorted(files)]


def _split(name: str) -> tuple[str, str]:
    stem, dot, suffix = name.rpartition(".")
    return stem, f"{dot}{suffix.lower()}"


def probe_all(files: Sequence[Path]) -> list[ImageInfo]:
    """Probes files in parallel, see `probe`. Files that are unchanged since an earlier run are not opened.

    Raises:
        UserError: a file cannot be read or is not an image.
    """
    return [((width, height), digest) for width, height, digest in read_all(files, "images", _probe)]


def probe(path: Path) -> ImageInfo:
    """Returns width and height as decoded, and a hash of the file's length and first bytes.

    Raises:
        UserError: the file cannot be read or is not an image.
    """
    [info] = probe_all([path])
    return info


def _probe(path: Path, status: os.stat_result | None) -> tuple[int, int, str]:
    try:
        if status is None or not stat.S_ISREG(status.st_mode):  # a folder, or a pipe, on which reading would block
            raise OSError("not a regular file")
        with open(path, "rb", buffering=0) as file:
            head = tail = file.read(HEAD)
            if status.st_size > HEAD and head.startswith(JPEG):
                file.seek(-HEAD, os.SEEK_END)
                tail = file.read()
        if head.startswith(JPEG) and JPEG_END not in tail:  # decoders fill the missing part with grey
            raise OSError("truncated JPEG")
        digest = hashlib.sha256(head + str(status.st_size).encode()).hexdigest()
        return *_size(path, head), digest
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError("data", path, f"the image cannot be read ({one_line(error)}): fix or remove it") from error


def _size(path: Path, head: bytes) -> tuple[int, int]:
    if path.suffix.lower() == pixels.ARRAY:
        return pixels.size(path)
    # Ultralytics, once imported, patches Image.open to request another package for unknown formats.
    patched = sys.modules.get("ultralytics.utils.patches")
    open_image: Callable[..., Image.Image] = getattr(patched, "_image_open", Image.open)
    try:
        image = open_image(io.BytesIO(head))
    except UnidentifiedImageError:
        try:
            image = open_image(path)  # some formats store their directory at the end of the file
        except UnidentifiedImageError:
            if path.suffix.lower() not in pixels.TIFF:
                raise
            return pixels.size(path)  # Pillow knows no more than four bands
    with image:
        exif = Image.Exif()
        if image.info.get("exif"):  # image.getexif() would decode a whole PNG
            exif.load(image.info["exif"])
        rotated = exif.get(ORIENTATION, 1) >= 5
        return (image.height, image.width) if rotated else (image.width, image.height)


def check_disjoint(training: Iterable[Sample], evaluation: Mapping[str, Sequence[Sample]]) -> None:
    """Checks that no image of an evaluation split is used in training or calibration, which would bias the accuracy.

    Raises:
        UserError: an image is in both; the message names both files.
    """
    by_digest = {sample.digest: sample for sample in training}
    for name, samples in evaluation.items():
        for index, sample in enumerate(samples):
            duplicate = by_digest.get(sample.digest)
            if duplicate is not None and same_content(sample, duplicate):
                raise UserError(
                    f"data.{name}",
                    sample.source if isinstance(sample.source, Path) else f"image {index}, {_name(sample)}",
                    f"is also a training or calibration image ({_name(duplicate)}): splits must not overlap",
                )


def _name(sample: Sample) -> str:
    """For messages: the path of an image file, or the size of an image in memory."""
    width, height = sample.size
    return str(sample.source) if isinstance(sample.source, Path) else f"an array of {width}x{height} pixels"


def same_content(first: Sample, second: Sample) -> bool:
    """Whether two samples of equal digest are the same image."""
    if not (isinstance(first.source, Path) and isinstance(second.source, Path)):
        return True
    return first.source == second.source or first.source.read_bytes() == second.source.read_bytes()


def fingerprint(classes: Sequence[str], splits: Mapping[str, Sequence[Sample]]) -> str:
    """SHA-256 of class names, split names, file names, image contents and labels; independent of the data's folder."""
    digest = hashlib.sha256("\0".join(classes).encode())
    for name in sorted(splits):
        digest.update(f"\n{name} {len(splits[name])}\n".encode())
        for sample in splits[name]:
            if isinstance(sample.source, Path):
                digest.update(f"{sample.source.name} {sample.digest}\n".encode())
            else:
                digest.update(sample.source.tobytes())
            label = sample.label
            if isinstance(label, Unlabelled):
                content = b"no label"
            elif isinstance(label, int):
                content = str(label).encode()
            else:
                content = (label if hasattr(label, "tobytes") else np.asarray(label)).tobytes()
            digest.update(content)
    return digest.hexdigest()
