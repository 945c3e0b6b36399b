"""The package `ultralytics` is imported offline, quietly, and without its thread limit."""

from __future__ import annotations

import logging
import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from compress.errors import MissingExtra
from compress.models.ultralytics_package import quiet, require_ultralytics


class LimitsThreads(MetaPathFinder, Loader):
    """Finds a fake of `ultralytics` that sets a limit on threads when it is imported, as the real one does."""

    def __init__(self) -> None:
        self.seen: dict[str, str | None] = {}

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "ultralytics" else None

    def exec_module(self, module: ModuleType) -> None:
        self.seen = {name: os.environ.get(name) for name in ("YOLO_OFFLINE", "YOLO_AUTOINSTALL")}
        os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> LimitsThreads:
    """In place of the real package, which stays imported for other tests."""
    for name in [name for name in sys.modules if name.split(".")[0] == "ultralytics"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("YOLO_OFFLINE", "YOLO_AUTOINSTALL", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    finder = LimitsThreads()
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return finder


def test_it_is_imported_offline_and_its_thread_limit_is_lifted(package: LimitsThreads) -> None:
    require_ultralytics()
    assert package.seen == {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    assert "OMP_NUM_THREADS" not in os.environ


def test_what_the_user_has_set_stays(package: LimitsThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLO_OFFLINE", "false")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    require_ultralytics()
    assert package.seen["YOLO_OFFLINE"] == "false"
    assert "OMP_NUM_THREADS" in os.environ


def test_an_absent_package_is_named_with_the_extra(package: LimitsThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [])
    with pytest.raises(MissingExtra, match=r"ultralytics.*\[ultralytics\]"):
        require_ultralytics()
    assert "OMP_NUM_THREADS" not in os.environ


class Kept(logging.Handler):
    """Levels of the records that a logger passes on; the package changes their texts."""

    def __init__(self) -> None:
        super().__init__()
        self.levels: list[int] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.levels.append(record.levelno)


def test_its_log_is_limited_for_a_while_only() -> None:
    logger, kept = logging.getLogger("ultralytics"), Kept()
    before = logger.level
    logger.addHandler(kept)
    try:
        logger.setLevel(logging.INFO)
        with pytest.raises(KeyError), quiet():
            logger.info("a summary")
            logger.warning("a warning")
            raise KeyError
        assert logger.level == logging.INFO
    finally:
        logger.setLevel(before)
        logger.removeHandler(kept)
    assert kept.levels == [logging.WARNING]
