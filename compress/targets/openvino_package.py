"""Imports OpenVINO without its telemetry."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from compress.errors import MissingExtra


def require() -> None:
    """Raises MissingExtra if OpenVINO or NNCF is not installed."""
    for package in ("openvino", "nncf"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra("targets", package)


def package_without_telemetry() -> Any:
    """Imports `openvino` with its telemetry disabled: OpenVINO and NNCF fall back to a stub if the telemetry package
    cannot be imported. (OpenVINO sends an event on import; its opt-out is a file in the home directory.)"""
    require()
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")
