from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compress.budget import Check, Verdict
from compress.ledger import Accuracy, Energy, Latency, Provenance
from compress.report import formatting, render
from compress.report.changes import Change, change_from_baseline
from compress.report.formatting import accuracy_text, change_parts, energy, latency, timing_setup, value_and_limit
from compress.typed_json import decode
from tests.report.ledgers import pick, row, rows, timing, typed, verdict, write_run


def judged(value: float | None, limit: float, name: str = "budget.flops", **of: str) -> Check:
    return Check(name, of.get("target"), of.get("precision"), limit, value, of.get("unit", ""))


def test_provenance_is_stated_unless_measured() -> None:
    [blank] = typed(row("load"))
    score = Accuracy("top1", 0.41, ci95=(0.4, 0.42), obtained=Provenance.emulated)
    assert accuracy_text(replace(blank, accuracy=score)) == "0.4100 [0.4000, 0.4200] (emulated)"
    assert latency(replace(blank, latency_ms=Latency(3.0, obtained=Provenance.predicted))) == "3.00 (predicted)"
    assert latency(replace(blank, latency_ms=Latency(obtained=Provenance.not_run))) == "not run"
    assert latency(blank) == accuracy_text(blank) == energy(blank) == "–"
    assert accuracy_text(replace(blank, accuracy=Accuracy("top1", 0.5))) == "0.5000 (origin not stated)"
    assert energy(replace(blank, energy_mj=Energy(2.5, Provenance.predicted))) == "2.50 (predicted)"


def test_a_latency_names_runtime_precision_threads_and_device() -> None:
    assert timing_setup(pick(typed(*rows()), "load", "openvino")) == "openvino bf16 2 thr b1 host"
    [silent] = typed(row("load", "openvino") | {"latency_ms": {"median": 1.0}})
    assert timing_setup(silent) == "runtime? fp32 file threads n/a batch? device?"


def test_rounding_never_makes_value_and_limit_look_equal() -> None:
    assert value_and_limit(judged(438_200_001, 438_200_000)) == ("438.200001 M", "438.2 M")
    assert value_and_limit(judged(0.0100004, 0.01)) == ("0.0100004", "0.01")
    assert value_and_limit(judged(0.0131, 0.02)) == ("0.0131", "0.02")
    assert value_and_limit(judged(None, 4)) == ("–", "4")


def test_differences_within_noise_are_marked_and_not_coloured() -> None:
    before = row("load", "openvino", latency=(5.0, "f32"))
    after = row("export", "openvino") | {"latency_ms": timing("openvino", 4.5, "f32", low=4.2, high=5.1)}
    ledger = typed(row("load"), before, after)
    [*_, (what, much, better)] = change_parts(change_from_baseline(ledger, ledger[2]))
    assert (what, much, better) == ("lat", "×0.90 (noise)", None)
    before["latency_ms"] |= {"low": 5.2, "high": 5.4}
    ledger = typed(row("load"), before, after)
    [*_, (_, much, better)] = change_parts(change_from_baseline(ledger, ledger[2]))
    assert (much, better) == ("×0.90", True)


def test_a_contended_time_is_marked_and_compared_with_nothing(tmp_path: Path) -> None:
    records = rows()
    busy = next(each for each in records if (each["stage"], each["target"]) == ("load", "openvino"))
    busy["latency_ms"] |= {"median": 22.0, "low": 20.0, "high": 25.0, "cpu_wait": 0.5, "contended": True}
    ledger = typed(*records)
    assert latency(pick(ledger, "load", "openvino")) == "22.00 (contended)"
    gain = change_parts(change_from_baseline(ledger, pick(ledger, "export", "openvino", "fp32")))[-1]
    assert gain[1].endswith("(contended)") and gain[2] is None
    page = render(write_run(tmp_path / "busy", records)).read_text()
    assert "22.00 (contended)" in page and "20.00 to 25.00" in page


def test_changes_are_signed_and_small_ones_are_neither_better_nor_worse() -> None:
    assert change_parts(Change(flops=1.0, accuracy=0.0004)) == [("acc", "+0.0004", None)]
    assert change_parts(Change(flops=2.0, accuracy=-0.01)) == [("FLOPs", "×2.00", False), ("acc", "−0.0100", False)]
    assert formatting.change(Change()) == "–"
    assert [formatting.signed(value, 1) for value in (1.26, -1.26, -0.01)] == ["+1.3", "−1.3", "0.0"]


def test_a_missing_number_is_never_zero() -> None:
    assert (formatting.giga(None), formatting.giga(0), formatting.mega(2_500_000)) == ("–", "0.000", "2.50")
    [unknown, graph] = typed(row("load", int8=None), row("load", int8=0.5) | {"int8_mac_share_obtained": "graph"})
    assert formatting.int8_percent(unknown) == ("–", "")
    assert formatting.int8_percent(graph) == ("50.0\N{NO-BREAK SPACE}%", "by graph")


def test_only_passed_acceptance_checks_are_folded() -> None:
    good, bad = judged(0.0, 1, "contract.same", target="ncnn"), judged(2.0, 1, "contract.same", target="ncnn")
    assert formatting.folded_checks(Verdict((good, bad, judged(1, 2)))) == ([good], [bad, judged(1, 2)])
    assert formatting.folded_checks(None) == ([], [])
    assert formatting.folded([good]).startswith("1 acceptance checks of exported artifacts (ncnn)")


def test_a_limit_that_all_artifacts_meet_is_shown_once() -> None:
    """The artifact closest to the limit stands for the others, until one misses it."""
    values = (0.01, 0.015, -0.002)
    checks = [judged(value, 0.02, "budget.max_accuracy_drop", target=name) for value, name in zip(values, "abc")]
    others, shown = formatting.folded_checks(Verdict((judged(1, 2), *checks)))
    assert others == [checks[0], checks[2]] and shown == [judged(1, 2), checks[1]]
    assert formatting.folded(others) == "budget.max_accuracy_drop of 2 further artifacts, none closer to the limit"
    for value in (0.03, None):
        missed = judged(value, 0.02, "budget.max_accuracy_drop", target="d")
        assert formatting.folded_checks(Verdict((*checks, missed))) == ([], [*checks, missed])


def test_a_check_names_its_artifact_and_unit() -> None:
    check = judged(3.5, 4, "budget.latency_ms", target="openvino", precision="int8", unit="ms")
    assert formatting.check(check) == "budget.latency_ms [openvino/int8]: 3.5, limit 4 ms"


@pytest.mark.parametrize(
    ("checks", "headline"),
    [([], "Nothing to judge"), ([(1, 2)], "Budget met"), ([(3, 2)], "Budget not met"), ([(None, 2)], "Undetermined")],
)
def test_the_headline_is_the_verdict(checks: list[tuple[float | None, float]], headline: str) -> None:
    assert formatting.headline(Verdict(tuple(judged(*each) for each in checks))) == headline
    assert formatting.headline(None) == "Not judged"
    assert formatting.headline(decode(Verdict, verdict())) == "Budget not met"


def test_agreement_is_never_called_accuracy(tmp_path: Path) -> None:
    assert formatting.quality(typed(*rows())) == "accuracy"
    lines = rows()
    for line in lines:
        if line["accuracy"]:
            line["accuracy"]["metric"] = "agreement mAP50-95"
    compared = typed(*lines)
    assert formatting.quality(compared) == "agreement"
    last = pick(compared, "finetune", None)
    assert [name for name, _, _ in change_parts(change_from_baseline(compared, last))][1] == "agreement"
