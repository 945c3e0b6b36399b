"""What is read of the CPU, and how many threads a process may run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compress import host as module
from compress.host import host, usable_threads, versions


def test_it_names_this_machine() -> None:
    result = host()
    assert result.cpu and result.cores >= 1 and result.threads >= 1
    assert result.as_dict()["features"] == list(result.features)


@pytest.mark.parametrize(("text", "threads"), [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("", 8)])
def test_a_container_s_quota_counts(text: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (limit := tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(module, "CGROUP_LIMIT", limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert usable_threads() == threads


def test_two_processors_of_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = "model name : A\nflags : fpu avx2 avx512_bf16\nphysical id : 0\ncore id : {}\n"
    (info := tmp_path / "cpuinfo").write_text("\n".join(block.format(core) for core in (0, 0, 1)))
    monkeypatch.setattr(module, "CPUINFO", info)
    host.cache_clear()
    try:
        assert (host().cpu, host().cores, host().features) == ("A", 2, ("avx2", "avx512_bf16"))
    finally:
        host.cache_clear()


def test_versions_are_of_installed_packages_only() -> None:
    assert {"torch", "onnxruntime", "openvino"} <= set(versions()) <= set(module.PACKAGES)
    assert versions()["torch"].count(".") >= 2
