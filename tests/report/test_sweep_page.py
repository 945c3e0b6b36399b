from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from compress.report import render_sweep
from compress.report.__main__ import main
from compress.report.sweep_page import sweep_table
from tests.report.ledgers import row, write_run
from tests.report.pages import HOSTILE, check_hostile_text_is_escaped


def test_sweep_page_escapes_all_text(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    for name in ("a", "<img src=x>"):
        ledger = [row("load", accuracy=0.5), row("finetune", accuracy=0.4)]
        for each in ledger:
            each["accuracy"]["metric"] = HOSTILE
        point = write_run(folder / name, ledger)
        (point / "config.yaml").write_text(
            yaml.safe_dump({"data": {"classes": [HOSTILE]}, HOSTILE: f"{HOSTILE} {name}"})
        )
    (folder / "failed").mkdir()
    (folder / "failed" / "failed.json").write_text(json.dumps({"error": HOSTILE}))
    check_hostile_text_is_escaped(render_sweep(folder).read_text())


def test_command_shows_a_sweep(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sweep)]) == 0
    out = capsys.readouterr().out
    assert "prune.ratio" in out and "0.440" in out and out.rstrip().endswith("report.html")


def test_the_table_has_the_reason_of_a_failure_and_the_stage_of_an_unfinished_point(sweep: Path) -> None:
    lines = sweep_table(sweep).splitlines()
    assert lines[0].split()[:3] == ["point", "prune.ratio", "GFLOPs"]
    [unfinished] = [line for line in lines if line.startswith("2 ")]
    assert "(after finetune)" in unfinished and unfinished.endswith("failed: it stopped after finetune")


def test_points_are_coloured_by_their_verdict(sweep: Path) -> None:
    page = render_sweep(sweep).read_text()
    assert ">0.1</text>" in page and ">0.3</text>" in page, "labels are the settings that differ"
    for colour, name in (("2", "0: 0.4800"), ("3", "1: 0.4600"), ("0", "baseline: 0.4900")):
        mark = page[: page.index(name)].rpartition("<circle")[2]
        assert mark.startswith(f' class="f-{colour} dot"')
    assert '<span class="tag good">met</span>' in page and '<span class="tag bad">missed</span>' in page
    assert '<span class="tag bad">failed</span><div class="small ">it stopped after finetune</div>' in page


def test_the_baseline_is_that_of_the_first_point_with_rows(sweep: Path) -> None:
    (sweep / "0" / "ledger.jsonl").unlink()
    page = render_sweep(sweep).read_text()
    assert "baseline: 0.4900" in page and ">mAP50-95</text>" in page


def test_a_baseline_without_accuracy_is_not_drawn(sweep: Path) -> None:
    for point in ("0", "1", "2"):
        path = sweep / point / "ledger.jsonl"
        path.write_text("\n".join(json.dumps(each) for each in (row("load"), row("prune", accuracy=0.4))) + "\n")
    page = render_sweep(sweep).read_text()
    assert page.count("<circle") == 2 and "baseline: " not in page
