"""Looking at image files without decoding them: size, content hash, and overlap between splits."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from compress.data.index import Found, Index, Stamp, stamp
from compress.data.sample import Sample
from compress.errors import UserError

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
JPEG, JPEG_END = b"\xff\xd8", b"\xff\xd9"
HEAD = 65536  # bytes; with the file's length enough to tell images apart, and one read a file
CHUNK = 100  # files
THREADS = 8  # a file on a network disk is mostly waited for
PROGRESS_SECONDS = 5.0
ORIENTATION = 0x0112  # EXIF tag; values 5 to 8 turn the image by 90 degrees

log = logging.getLogger(__name__)


def image_files(folder: Path) -> list[Path]:
    """All image files under a folder, sorted by the parts of their paths; links to folders are not followed."""
    found = []
    for place, folders, files in os.walk(folder):
        names = [name for name in (*files, *folders) if Path(name).suffix.lower() in SUFFIXES]
        if names:
            path = Path(place)
            found += [((*path.parts, name), path / name) for name in names]
    return [path for _, path in sorted(found)]


def look_at_all(files: Sequence[Path]) -> list[Found]:
    """`look` at each file, several at a time; files known from an earlier run are not read. Logs how far it is every
    few seconds.

    Raises:
        UserError: a file cannot be read or is no image.
    """
    index = Index(files)
    found: dict[Path, tuple[Stamp, Found]] = {}
    told = time.monotonic()
    chunks = [files[first : first + CHUNK] for first in range(0, len(files), CHUNK)]
    with ThreadPoolExecutor(THREADS) as threads:
        try:
            for chunk in threads.map(lambda chunk: {file: _look(file, index) for file in chunk}, chunks):
                found |= chunk
                if time.monotonic() - told > PROGRESS_SECONDS:
                    told = time.monotonic()
                    log.info("reading images: %s of %s", f"{len(found):,}", f"{len(files):,}")
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    index.keep(found)
    return [found[file][1] for file in files]


def look(path: Path) -> Found:
    """Width and height as decoded, and a hash of the file's length and first bytes.

    Raises:
        UserError: the file cannot be read or is no image.
    """
    return _look(path, None)[1]


def _look(path: Path, index: Index | None) -> tuple[Stamp, Found]:
    try:
        try:
            status = path.stat()
        except (OSError, ValueError):
            raise OSError("no ordinary file") from None
        if not stat.S_ISREG(status.st_mode):  # a folder, or a pipe, which would be waited for
            raise OSError("no ordinary file")
        if known := index and index.find(path, stamp(status)):
            return stamp(status), known
        with open(path, "rb", buffering=0) as file:
            head = tail = file.read(HEAD)
            if status.st_size > HEAD and head.startswith(JPEG):
                file.seek(-HEAD, os.SEEK_END)
                tail = file.read()
        if head.startswith(JPEG) and JPEG_END not in tail:  # decoders fill what is missing with grey
            raise OSError("a JPEG cut short")
        digest = hashlib.sha256(head + str(status.st_size).encode()).hexdigest()
        return stamp(status), (_size(path, head), digest)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError("data", path, f"this image cannot be read ({error}): fix or remove it") from error


def _size(path: Path, head: bytes) -> tuple[int, int]:
    # Once imported, Ultralytics replaces Image.open by one that asks for another package where it knows no format.
    patched = sys.modules.get("ultralytics.utils.patches")
    open_image: Callable[..., Image.Image] = getattr(patched, "_image_open", Image.open)
    try:
        image = open_image(io.BytesIO(head))
    except UnidentifiedImageError:
        image = open_image(path)  # some formats keep their directory at the end of the file
    with image:
        exif = Image.Exif()
        if image.info.get("exif"):  # image.getexif() would decode a whole PNG to look for it
            exif.load(image.info["exif"])
        turned = exif.get(ORIENTATION, 1) >= 5
        return (image.height, image.width) if turned else (image.width, image.height)


def check_disjoint(seen: Iterable[Sample], judged: Mapping[str, Sequence[Sample]]) -> None:
    """Refuses data whose judged splits hold an image that training or calibration sees: it would flatter every number.

    Raises:
        UserError: names both files.
    """
    by_digest = {sample.digest: sample for sample in seen}
    for name, samples in judged.items():
        for sample in samples:
            twin = by_digest.get(sample.digest)
            if twin is not None and _same_content(sample, twin):
                raise UserError(
                    f"data.{name}",
                    sample.source,
                    f"also stands in training as {twin.source}: splits must not overlap",
                )


def _same_content(sample: Sample, twin: Sample) -> bool:
    if not (isinstance(sample.source, Path) and isinstance(twin.source, Path)):
        return True
    return sample.source == twin.source or sample.source.read_bytes() == twin.source.read_bytes()


def fingerprint(classes: Sequence[str], splits: Mapping[str, Sequence[Sample]]) -> str:
    """sha256 over class names, split names, file names, image contents and labels; no folder of this machine in it."""
    digest = hashlib.sha256("\0".join(classes).encode())
    for name in sorted(splits):
        digest.update(f"\n{name} {len(splits[name])}\n".encode())
        for sample in splits[name]:
            if isinstance(sample.source, Path):
                digest.update(f"{sample.source.name} {sample.digest}\n".encode())
            else:
                digest.update(sample.source.tobytes())
            label = sample.label
            digest.update(str(label).encode() if isinstance(label, int) else np.asarray(label).tobytes())
    return digest.hexdigest()
