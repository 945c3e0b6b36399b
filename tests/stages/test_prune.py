from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import compress
from compress.capabilities import Trainable
from compress.errors import TargetFailed, UserError
from compress.stages import prune

SHORT = ["recipe=digits", "stages=[train,prune]", "targets=[]", "data.validation_images=100", "train.images=1600"]
SHORT += ["budget.max_accuracy_drop=null", "prune.round_to=8"]


def record(folder: Path, *overrides: str) -> dict[str, Any]:
    compress.run(compress.compose([*SHORT, *overrides]), folder)
    return json.loads((folder / "pruning.json").read_text())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_rounds_meet_the_budget_and_keep_to_the_widths_of_the_start(place: Path) -> None:
    rounds = ["prune.rounds=3", "prune.round_images=160", "budget.flops=30%", "prune.max_ratio=0.7"]
    result = record(place / "a", *rounds)
    before, after = result["macs_before"], result["macs_after"]
    assert 0.2 * before < after <= 0.3 * before
    assert result["reachable"][0] < after and result["reachable"][1] == before
    for layer, (was, now) in result["channels"].items():
        assert now >= 0.3 * was, layer
    macs = result["layer_macs"]
    assert [sum(values) for values in zip(*macs.values(), strict=True)] == [before, after] and {*macs} >= {"head"}
    again = record(place / "b", *rounds, "cache=false")
    assert again["channels"] == result["channels"]


def test_a_round_whose_part_is_already_removed_is_skipped(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 32 channels removes 22 % of the MACs, more than four rounds to 90 % together."""
    monkeypatch.setattr(prune, "tune", lambda *_, **__: pytest.fail("no round follows"))
    result = record(
        place / "a", "stages=[prune]", "force=true", "prune.rounds=4", "prune.round_to=32", "budget.flops=90%"
    )
    assert result["macs_after"] == 2084096 <= 0.9 * result["macs_before"]


def test_the_reachable_range_is_computed_once_and_not_stored_for_a_run_that_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    untrained = ["stages=[prune]", "force=true"]
    with pytest.raises(UserError, match="can reach"):
        record(place / "a", *untrained, "budget.flops=0.5%")
    assert not list(place.rglob("*"))
    record(place / "b", *untrained)
    monkeypatch.setattr(prune, "_range", lambda *_: pytest.fail("computed again"))
    record(place / "c", *untrained, "budget.flops=60%")


def test_rounds_share_out_a_ratio(place: Path) -> None:
    ratio = ["budget.flops=null", "prune.ratio=0.5", "prune.rounds=2", "prune.round_images=160"]
    assert record(place / "a", *ratio)["ratio"] == pytest.approx(0.5, abs=0.06)


def test_an_interrupted_stage_takes_up_the_rounds_that_are_done(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = ["prune.rounds=3", "prune.round_images=160", "budget.flops=30%"]
    tuned: list[str] = []
    whole = prune.tune

    def interrupted(*given: Any, **named: Any) -> Trainable:
        if len(tuned) == 1:
            tuned.append("stopped")
            raise KeyboardInterrupt
        tuned.append("done")
        return whole(*given, **named)

    monkeypatch.setattr(prune, "tune", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record(place / "a", *rounds)
    result = record(place / "a", *rounds)
    assert tuned == ["done", "stopped", "done"]  # the first round's tuning was not done again
    points = [json.loads(line) for line in (place / "a" / "metrics.jsonl").read_text().splitlines()]
    steps = [("prune/round-1", step) for step in range(1, 6)] + [("prune/round-2", step) for step in range(1, 6)]
    named = [(point["training"], point["step"]) for point in points if point["training"] != "train"]
    assert named == steps  # the first round's curve is still there
    monkeypatch.setattr(prune, "tune", whole)
    assert record(place / "b", *rounds, "cache=false")["channels"] == result["channels"]


def test_what_is_protected_says_what_it_keeps_out_of_reach(place: Path) -> None:
    result = record(place / "a")
    # The last layer alone: 10 classes x the 32 channels that are left of 64, twice since a MAC is two FLOPs.
    assert result["protected"].keys() == result["out_of_reach"].keys() == {"head"}
    assert 0 < result["out_of_reach"]["head"] <= 2 * result["reachable"][0]
    assert "layer_milliseconds" not in result


def test_the_objective_latency_leaves_the_times_it_went_by(place: Path) -> None:
    result = record(place / "a", "prune=latency")
    assert set(result["layer_milliseconds"]) >= set(result["channels"])
    assert all(took > 0 for took in result["layer_milliseconds"].values())


def test_the_objective_latency_of_a_device_is_predicted(place: Path) -> None:
    device = ["prune=latency", "device=raspberry_pi_5", "targets=[onnxruntime]"]
    first = record(place / "a", *device)
    assert set(first["layer_milliseconds"]) >= set(first["channels"])
    assert record(place / "b", *device, "cache=false")["channels"] == first["channels"]
    with pytest.raises(UserError, match="device=hailo_8: its chip computes int8, and the run makes no such file"):
        record(place / "c", "prune=latency", "device=hailo_8", "targets=[onnxruntime]")


# So slow that the digits take longer than starting the inference.
ON_A_BOARD = ["device=raspberry_pi_4", "device.peak_gops.fp32.value=0.1", "targets=[onnxruntime]", "budget.flops=null"]


def test_the_latency_of_a_device_decides(place: Path) -> None:
    """In one round or in two, the same limit is met."""
    for rounds in ([], ["prune.rounds=2", "prune.round_images=160"]):
        result = record(place / f"a{len(rounds)}", *ON_A_BOARD, "budget.latency_ms=60", *rounds)
        predicted = result["predicted_latency"]
        assert 0.85 * 60 < predicted["ms"] <= predicted["limit_ms"] == 60 < predicted["ms_before"]
        assert predicted["file"] == "onnxruntime/fp32" and "the profile of raspberry_pi_4 alone" in predicted["basis"]
        assert result["macs_after"] < result["macs_before"]


def test_a_frame_rate_decides(place: Path) -> None:
    result = record(place / "a", *ON_A_BOARD, "budget.fps=20")
    assert result["predicted_latency"]["ms"] <= result["predicted_latency"]["limit_ms"] == 50


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget.fps=90000", r"budget\.fps=90000\.0: is 0\.01111 ms on raspberry_pi_4: pruning can reach .* ms: raise"),
        ("budget.latency_ms=1000", r"budget\.latency_ms=1000: pruning can reach .* ms: the model already meets"),
    ],
)
def test_latencies_out_of_reach_are_refused(place: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        record(place / "a", *ON_A_BOARD, override)
    assert not (place / "a" / "ledger.jsonl").exists()


def raising(error: Exception) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("function", "error", "overrides", "message"),
    [
        ("layer_seconds", TargetFailed("no profile"), ["prune=latency"], "prune.objective=latency: no profile: set"),
        (
            "accumulate_gradients", torch.OutOfMemoryError("CUDA out of memory"), ["prune=taylor"],
            r"finetune\.batch=\d+: cpu has too little memory for the gradients of a batch: set a smaller one",
        ),
        (
            "accumulate_gradients", FloatingPointError("loss is not finite (nan)"), ["prune=taylor"],
            r"prune\.importance=taylor: loss is not finite \(nan\) on the training images: check weights and data",
        ),
    ],
)  # fmt: skip
def test_failures_of_a_round_are_the_users_error(
    function: str, error: Exception, overrides: list[str], message: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, function, raising(error))
    with pytest.raises(UserError, match=message):
        record(place / "a", "stages=[prune]", "force=true", *overrides)
