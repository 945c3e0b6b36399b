from __future__ import annotations

from pathlib import Path

import pytest

from compress.measurement import latency, rapl


def zone(folder: Path, name: str, kind: str, microjoules: int, limit: int = 1_000_000) -> Path:
    path = folder / name
    path.mkdir(exist_ok=True)
    for file, content in (("name", kind), ("energy_uj", microjoules), ("max_energy_range_uj", limit)):
        (path / file).write_text(f"{content}\n")
    return path


def test_packages_are_summed_and_counters_may_begin_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rapl, "POWERCAP", tmp_path)
    zone(tmp_path, "intel-rapl:0", "package-0", 100_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 900_000)
    zone(tmp_path, "intel-rapl:0:0", "dram", 0)  # a part of a package is not counted again
    energy = rapl.Energy()
    zone(tmp_path, "intel-rapl:0", "package-0", 350_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 50_000)
    zone(tmp_path, "intel-rapl:0:0", "dram", 777)
    assert rapl.available() and energy.joules() == pytest.approx(0.25 + 0.15)


def test_without_counters_there_is_no_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rapl, "POWERCAP", tmp_path)
    assert not rapl.available() and rapl.Energy().joules() is None
    assert latency.time_call(lambda: None, seconds=0.01).energy_mj is None
    (zone(tmp_path, "intel-rapl:0", "package-0", 1) / "energy_uj").unlink()  # as for users other than root
    assert not rapl.available() and rapl.Energy().joules() is None


def test_a_latency_has_the_energy_of_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rapl, "POWERCAP", tmp_path)
    calls = 50
    monkeypatch.setattr(rapl.Energy, "joules", lambda self: 2.0)
    first = latency.time_call(lambda: None, seconds=0, min_runs=calls)
    monkeypatch.setattr(rapl.Energy, "joules", lambda self: 1.0)
    second = latency.time_call(lambda: None, seconds=0, min_runs=calls)
    assert (first.energy_mj, second.energy_mj) == (40.0, 20.0)
    if not (first.contended or second.contended):
        assert second.merged_with(first).energy_mj == 30.0
