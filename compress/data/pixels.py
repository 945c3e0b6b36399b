"""Decodes image files of 8 or 16 bits with any number of channels.

Greyscale (1) and RGB (3) pixels are read from all formats and converted to the requested number. Other numbers of
channels must be those of the file: a TIFF file (all bands in one page, or one band per page), a .npy array
(h, w, channels), or RGBA (4). 16-bit values are divided by 257 and stay fractions, so they lose no precision, have the
range of 8-bit values, and both kinds can be mixed in a data set.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import tifffile

from compress.errors import UserError, named

ARRAY, TIFF = ".npy", (".tif", ".tiff")
SIXTEEN_BITS = np.float32(257)  # 65535 / 255
ORIENTATION = 274  # TIFF tag; 1: upright
MOST_VALUES = 2**30  # of one image; a compressed file of a few bytes can state any size


def decode(source: Path | np.ndarray, channels: int) -> np.ndarray:
    """Returns (h, w, channels): uint8, or float32 in [0, 255] if the source has 16 bits.

    Args:
        source: an image file, or uint8 or uint16 pixels (h, w) or (h, w, c).

    Raises:
        UserError: the file cannot be decoded, has neither 8 nor 16 bits, or has another number of channels.
    """
    image = _read(source, channels) if isinstance(source, Path) else source
    if image.ndim == 2:
        image = image[:, :, None]
    if image.shape[2] == 1 and channels == 3:
        image = np.repeat(image, 3, axis=2)
    elif image.shape[2] == 3 and channels == 1:
        image = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[:, :, None]
    if image.shape[2] != channels:
        where = source if isinstance(source, Path) else "an array"
        remedy = f"{where} has {image.shape[2]} channels: set model.channels to the number of all images"
        raise UserError("model.channels", channels, remedy)
    if image.dtype.kind == "u" and image.dtype.itemsize == 2:
        return np.divide(image, SIXTEEN_BITS, dtype=np.float32)
    if image.dtype != np.uint8:
        raise UserError("data", source, f"its pixels are {image.dtype}: save them as uint8 or uint16")
    return image


def size(path: Path) -> tuple[int, int]:
    """Returns width and height of a .npy or TIFF file without reading its pixels.

    Raises:
        OSError: the file is not valid.
    """
    if path.suffix.lower() == ARRAY:
        height, width = _array(path).shape[:2]
        return width, height
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            return page.imagewidth, page.imagelength
    except Exception as error:  # of the parser, which meets anything in a damaged file
        raise OSError(named(error)) from error


def _read(path: Path, channels: int) -> np.ndarray:
    suffix = path.suffix.lower()
    try:
        if suffix == ARRAY:
            return np.array(_array(path))
        image = None
        if channels in (1, 3):
            swap = channels == 3 and suffix in TIFF  # OpenCV 5.0 reads garbage from those of 16 bits as RGB
            colour = cv2.IMREAD_COLOR_BGR if swap else cv2.IMREAD_COLOR_RGB
            image = cv2.imread(str(path), (cv2.IMREAD_GRAYSCALE if channels == 1 else colour) | cv2.IMREAD_ANYDEPTH)
            if swap and image is not None:
                image = np.ascontiguousarray(image[:, :, ::-1])
        elif suffix not in TIFF:
            image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            if image is not None and image.ndim == 3 and image.shape[2] == 4:
                image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
        if image is None and suffix in TIFF:
            image = _bands(path)
    except OSError as error:
        raise UserError("data", path, f"the image cannot be decoded ({error}): fix or remove it") from error
    if image is None:
        raise UserError("data", path, "the image cannot be decoded: fix or remove it")
    return image


def _array(path: Path) -> np.ndarray:
    """The array in a .npy file, mapped into memory. Raises OSError if it is not an image."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # refuses Python objects, which would be unpickled
    except (ValueError, OSError) as error:
        raise OSError(named(error)) from error
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise OSError(f"its shape is {array.shape}; expected (height, width) or (height, width, channels)")
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise OSError(f"its pixels are {array.dtype}; expected uint8 or uint16")
    return array


def _bands(path: Path) -> np.ndarray:
    """The bands of a TIFF file, (h, w) or (h, w, bands): those of the first page, or of all pages of its size."""
    try:
        with tifffile.TiffFile(path) as file:
            first = file.pages.first
            if (tag := first.tags.get(ORIENTATION)) and tag.value > 1:
                raise OSError(f"its orientation is {int(tag.value)}; save the pixels upright")
            pages = [first] if first.ndim == 3 else [page for page in file.pages if page.shape == first.shape]
            if len(pages) * first.size > MOST_VALUES:
                raise OSError(f"{first.shape} in {len(pages)} pages is too large")
            bands = [page.asarray() for page in pages]
            image = bands[0] if len(bands) == 1 else np.stack(bands, axis=2)
            return np.moveaxis(image, 0, 2) if first.axes == "SYX" else image
    except Exception as error:  # of the parser, which meets anything in a damaged file
        raise OSError(named(error)) from error
