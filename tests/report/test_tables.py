from __future__ import annotations

from compress.budget import Verdict
from compress.report import tables
from compress.report.run_reader import Candidate, Manifest, Pruning
from compress.report.tables import Cell, Detail, Table
from compress.typed_json import decode
from tests.report.ledgers import row, rows, timing, typed, verdict


def column(table: Table | None, name: str) -> list[str | Cell]:
    """The cells of a column; those without details and tag as text."""
    assert table is not None
    index = [each.name for each in table.columns].index(name)
    cells = [line[index] for group in table.groups for line in group]
    return [each.text if isinstance(each, Cell) and each == Cell(each.text, []) else each for each in cells]


def test_checks_show_their_state_value_and_limit() -> None:
    table = tables.checks(decode(Verdict, verdict()).checks)
    states = [("met", "good")] * 3 + [("missed", "bad"), ("unknown", "open")]
    assert column(table, "") == [Cell(text, tag=tag) for text, tag in states]
    assert column(table, "artifact") == ["–", "onnxruntime/int8", "openvino/int8", "onnxruntime/int8", "tensorrt/int8"]
    assert (column(table, "value")[3], column(table, "limit")[3]) == ("0.00484", "0.0048")
    assert tables.checks([]) is None


def test_measurements_are_grouped_by_stage() -> None:
    table = tables.measurements(typed(*rows()))
    assert table is not None and table.dense and [len(group) for group in table.groups] == [4, 1, 4, 3, 6]
    openvino = dict(zip([each.name for each in table.columns], table.groups[0][2]))
    assert openvino["target"] == Cell("openvino", [Detail("fp32")])
    assert openvino["GFLOPs"] == Cell("0.876", [])
    assert openvino["latency, ms"] == Cell("4.18", [Detail("p95 4.72"), Detail("computed in bf16")])
    emulated = Cell("0.4733", [Detail("[0.4609, 0.4857]"), Detail("emulated")])
    assert column(table, "mAP50-95 ± 95 % CI")[-1] == emulated
    assert column(table, "vs. baseline")[0] == Cell("–") and tables.measurements([]) is None


def test_latencies_state_their_conditions_if_these_differ() -> None:
    here = row("load", "openvino", latency=(4.18, "bf16"))
    there = row("export", "openvino") | {"latency_ms": timing("openvino", 9.0, "int8", device="jetson")}
    cells = column(tables.measurements(typed(here, there)), "latency, ms")
    assert [cell.details[-1].text for cell in cells if isinstance(cell, Cell)] == ["2 thr b1 host", "2 thr b1 jetson"]


def test_small_networks_have_smaller_units() -> None:
    table = tables.measurements(typed(row("load", macs=2_500_000)))
    assert column(table, "MFLOPs") == ["5.000"]


def test_changes_are_coloured_as_better_or_worse() -> None:
    table = tables.measurements(typed(row("load", macs=100, accuracy=0.5), row("prune", macs=50, accuracy=0.4)))
    change = Cell("", [Detail("FLOPs ×0.50", "good"), Detail("acc −0.1000", "bad")])
    assert column(table, "vs. previous")[1] == column(table, "vs. baseline")[1] == change


def test_unknown_measurements_are_dashes() -> None:
    table = tables.further_measurements(typed(row("load", accuracy=0.5), row("prune")))
    assert column(table, "images evaluated") == ["500", "–"] and column(table, "mAP50") == ["0.8500", "–"]
    assert column(table, "energy mJ") == column(table, "timing runs") == ["–", "–"]


def test_protected_modules_are_sorted_by_flops() -> None:
    pruning = Pruning({"conv": (64, 16), "none": (0, 0)}, {"a": "first", "b": "last"}, {"b": 2e6})
    assert column(tables.protected_modules(pruning), "module") == ["b", "a"]
    assert column(tables.protected_modules(pruning), "unprunable MFLOPs") == ["2.0", "0.0"]
    assert tables.protected_modules(Pruning()) is None


def test_the_selected_candidate_is_marked() -> None:
    candidates = [Candidate("ncnn", scheme, 0.5, 0.01, 2.4, chosen=scheme == "b") for scheme in "ab"]
    table = tables.quantization_candidates(candidates)
    assert column(table, "") == ["", Cell("selected", tag="good")] and column(table, "latency ms") == ["–", "–"]
    assert column(table, "accuracy") == ["0.5000"] * 2 and column(table, "search s") == ["2", "2"]
    layers = Candidate("ncnn", "c", 0.5, 0.01, 2.4, layers_kept=("head", "neck"))
    assert column(tables.quantization_candidates([layers]), "further layers in float") == ["2"]


def test_versions_stand_in_the_first_row_of_a_target() -> None:
    manifests = {"ncnn": Manifest({"a": "0" * 64, "b": "1" * 64}, {"ncnn": "1.0", "torch": "2.6"}), "empty": Manifest()}
    table = tables.artifacts(manifests)
    assert column(table, "produced with") == ["ncnn 1.0, torch 2.6", ""]
    assert column(table, "SHA-256") == ["0" * 16 + "…", "1" * 16 + "…"]


def test_numbers_are_aligned_right() -> None:
    ledger, pruning = typed(*rows()), Pruning({"conv": (64, 16)}, {"a": "last"})
    candidates = [Candidate("ncnn", "a", 0.5, 0.01, 2.4)]
    for table, left in (
        (tables.checks(decode(Verdict, verdict()).checks), ["", "check", "artifact", "unit"]),
        (tables.measurements(ledger), ["stage", "target", "vs. previous", "vs. baseline"]),
        (tables.further_measurements(ledger), ["stage", "target", "precision"]),
        (tables.protected_modules(pruning), ["module", "reason"]),
        (tables.quantization_candidates(candidates), ["", "target", "scheme"]),
    ):
        assert table is not None and [each.name for each in table.columns if not each.right] == left


def test_thresholds_show_what_the_precision_of_the_baseline_costs() -> None:
    points = [{"threshold": each, "precision": 0.9, "recall": recall} for each, recall in ((0.3, 0.8), (0.2, 0.75))]
    found = {"best_f1": {"baseline": points[0], "artifact": points[1], "reason": None}}
    lost = {"best_f1": {"baseline": points[0], "artifact": None, "reason": "at most 0.8"}}
    table = tables.thresholds(
        typed(
            row("load"),
            row("quantize", "openvino", "int8", thresholds=lost),
            row("export", "openvino", "int8", thresholds=found),
            row("export", "ncnn", "fp16", thresholds=lost),
        )
    )
    assert column(table, "artifact") == ["openvino int8", "ncnn fp16"]
    assert column(table, "threshold")[0] == Cell("0.300", [Detail("precision 0.9000, recall 0.8000")])
    assert column(table, "artifact's threshold") == [
        Cell("0.200", [Detail("precision 0.9000, recall 0.7500")]), Cell("–", [Detail("at most 0.8")]),
    ]  # fmt: skip
    assert column(table, "recall") == ["−0.0500", "–"]
    assert tables.thresholds(typed(row("load"))) is None
