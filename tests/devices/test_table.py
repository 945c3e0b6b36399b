from __future__ import annotations

import os
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from compress.config import Basis, DeviceConfig, Figure, device_profiles
from compress.devices import table

ROOT = Path(__file__).parents[2]
BOARD = DeviceConfig(
    "board",
    peak_gops={
        "fp32": Figure(57.6, "4 cores", Basis.derived),
        "fp16": Figure(0.32, "a page"),
        "int8": Figure(85500, "a rumour", Basis.unverified),
    },
    bandwidth_gb_s=Figure(100, "a page"),
    memory_gb=Figure(0.000512, "a page"),
    loaded_watts=Figure(2.5, "a page"),
)


def printed(profiles: dict[str, DeviceConfig], with_sources: bool = False) -> list[str]:
    text = StringIO()
    table.show(profiles, with_sources, Console(file=text, no_color=True, force_terminal=False))
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_a_row_has_the_figures_with_their_units_and_marks() -> None:
    lines = printed({"board": BOARD, "host": DeviceConfig()})
    assert lines[0].split() == ["device", "FP32", "FP16", "INT8", "GB/s", "memory", "idle", "load", "ridge"]
    assert lines[2].split() == ["board", "~57.6G", "320M", "?85.5T", "100", "512", "KB", "-", "2.5", "?855"]
    assert lines[3].split() == ["host", *"--------"]
    assert "~ derived" in lines[-1] and "? unverified" in lines[-1]


def test_sources_are_listed_on_request() -> None:
    lines = printed({"board": BOARD}, with_sources=True)
    assert lines[lines.index("board") :] == [
        "board",
        "  peak_gops.fp32 57.6 (derived): 4 cores",
        "  peak_gops.fp16 0.32 (published): a page",
        "  peak_gops.int8 85500 (unverified): a rumour",
        "  bandwidth_gb_s 100 (published): a page",
        "  memory_gb 0.000512 (published): a page",
        "  loaded_watts 2.5 (published): a page",
    ]


@pytest.mark.parametrize(
    ("peak", "bandwidth", "mark"),
    [
        (Basis.published, Basis.published, "~4"),
        (Basis.derived, Basis.published, "~4"),
        (Basis.published, Basis.unverified, "?4"),
    ],
)
def test_the_ridge_point_is_no_better_than_its_figures(peak: Basis, bandwidth: Basis, mark: str) -> None:
    device = DeviceConfig(peak_gops={"int8": Figure(40, "x", peak)}, bandwidth_gb_s=Figure(10, "x", bandwidth))
    assert table.cell(table.ridge(device)) == mark
    assert table.ridge(DeviceConfig(bandwidth_gb_s=Figure(10, "x"))) is None


def test_all_devices_are_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert table.main(["--devices", "all"]) == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]
    assert set(device_profiles()) <= set(rows)


def test_a_user_adds_a_device_by_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The example of the documentation, in the table and in a run."""
    page = (ROOT / "docs" / "user-guide" / "devices.md").read_text(encoding="utf-8")
    example = re.search(r"```yaml\n(name: my_board.*?)```", page, re.DOTALL)
    assert example is not None
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / "my_board.yaml").write_text(example[1])
    assert table.main(["--devices", "my_board,t4", "--config-dir", str(tmp_path)]) == 0
    rows = capsys.readouterr().out.splitlines()[2:4]
    assert [row.split()[0] for row in rows] == ["my_board", "t4"] and "4 GB" in rows[0]
    words = ["run", "--config-dir", str(tmp_path), "recipe=drone_nano", "device=my_board", "--cfg", "job"]
    done = subprocess.run([sys.executable, "-m", "compress", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["device"]["name"] == "my_board"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--devices", "raspbery_pi"], "device=raspbery_pi: there is no such choice; did you mean raspberry_pi_5 or"),
        (["--devices", "all", "model=yolo26n"], "unrecognized arguments: model=yolo26n"),
        (["--devices", "all", "--config-dir", "nowhere"], "--config-dir=nowhere: there is no such folder"),
    ],
)
def test_a_users_mistake_exits_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert table.main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("compress: error: ") and words in line


def test_the_command_imports_no_torch(tmp_path: Path) -> None:
    code = "import sys; from compress.__main__ import main; assert main() == 0 and 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code, "profile", "--devices", "jetson_nano"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "jetson_nano" in done.stdout and "472G" in done.stdout
    assert list(tmp_path.iterdir()) == []
