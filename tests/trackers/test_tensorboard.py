from __future__ import annotations

from pathlib import Path

import pytest

from compress.budget import Verdict
from compress.config import Config
from compress.errors import MissingExtra
from compress.trackers import tensorboard
from compress.trackers.tensorboard import TensorBoard
from tests.budget.conftest import row


def test_without_the_package_the_remedy_is_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"^trackers=tensorboard: .*: pip install -e '.\[tensorboard\]'"):
        TensorBoard()


def test_curves_rows_and_verdict_can_be_read(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = TensorBoard()
    tracker.start(Config(), tmp_path)
    tracker.row(row("load"))
    tracker.stage("train")
    for step in (10, 20):
        tracker.metrics("train", step, {"loss": 1 / step})
    tracker.row(row("train", "openvino", "int8", ms=1.5, accuracy=0.75))
    tracker.finish(Verdict(()))
    written = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = written.Scalars("train/loss")
    assert [point.step for point in points] == [10, 20]
    assert [point.value for point in points] == pytest.approx([0.1, 0.05])
    assert [(point.step, point.value) for point in written.Scalars("openvino/int8.latency_ms")] == [(1, 1.5)]
    assert [point.step for point in written.Scalars("torch/fp32.accuracy")] == [0]
    assert b"met" in written.Tensors("verdict/text_summary")[0].tensor_proto.string_val[0]


def test_a_run_that_stops_leaves_its_curves(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = TensorBoard()
    tracker.start(Config(), tmp_path)
    tracker.metrics("train", 1, {"loss": 0.5})
    tracker.stop(KeyboardInterrupt())
    assert len(EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")) == 1
