from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.tasks import Batch
from compress.training import curve
from compress.training.curve import Curve, due, read
from compress.training.engine import fit
from tests.halves import BATCH, Halves, interrupt_at, loss, schedule, tiny

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 600  # a point every third step


@pytest.mark.parametrize(("steps", "points"), [(1, 1), (12, 12), (200, 200), (201, 101), (600, 200), (1999, 200)])
def test_the_points_are_at_equal_distances_and_at_the_end(steps: int, points: int) -> None:
    at = [step for step in range(1, steps + 1) if due(step, steps)]
    assert len(at) == points <= curve.POINTS and at[-1] == steps
    assert len({b - a for a, b in zip([0, *at[:-2]], at[:-1])}) <= 1


def test_points_are_written_and_reported(tmp_path: Path) -> None:
    reported: list[tuple[int, curve.Values]] = []
    plan = schedule(images=4 * BATCH)
    fit(tiny(), loss, Halves(), plan, seed=0, metrics=Curve(tmp_path / "m", lambda *point: reported.append(point)))
    assert read(tmp_path / "m") == reported and [step for step, _ in reported] == [1, 2, 3, 4]
    for step, values in reported:
        assert values.keys() == {"loss", "learning_rate", "images_per_second"}
        assert values["learning_rate"] == pytest.approx(plan.rate(step - 1), rel=1e-5)
        assert values["images_per_second"] > 0


def in_two_parts(net: nn.Module, batch: Batch) -> Tensor:
    return torch.stack([loss(net, batch), 0.25 * loss(net, batch)])


def test_a_loss_in_two_parts_is_reported_in_parts_and_trains_as_their_sum(tmp_path: Path) -> None:
    whole = fit(tiny(), lambda net, batch: in_two_parts(net, batch).sum(), Halves(), schedule(), seed=0)
    trained = fit(tiny(), in_two_parts, Halves(), schedule(), seed=0, metrics=Curve(tmp_path / "m"), accumulate=2)
    for _, values in read(tmp_path / "m"):
        assert values["loss"] == pytest.approx(values["task_loss"] + values["distillation_loss"], rel=1e-4)
    trained = fit(tiny(), in_two_parts, Halves(), schedule(), seed=0)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), trained.parameters(), strict=True))


def values_of(file: Path) -> list[tuple[int, float, float]]:
    return [(step, values["loss"], values["learning_rate"]) for step, values in read(file)]


@pytest.mark.parametrize("step", [2, 3, 200])
def test_a_resumed_training_has_the_curve_of_an_undisturbed_one(step: int, tmp_path: Path) -> None:
    plan = schedule(images=STEPS * BATCH)
    fit(tiny(), loss, Halves(), plan, seed=0, metrics=Curve(tmp_path / "straight"))
    file, state = tmp_path / "m", tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), interrupt_at(step), Halves(), plan, seed=0, checkpoint=state, metrics=Curve(file))
    file.write_text(file.read_text() + '{"step": 599, "loss": 1.0}\n{"step": 600, "lo')  # written after the last state
    reported: list[int] = []
    again = Curve(file, lambda step, _: reported.append(step))
    fit(tiny(), loss, Halves(), plan, seed=0, checkpoint=state, metrics=again)
    assert values_of(file) == values_of(tmp_path / "straight")
    assert reported == list(range(3, STEPS + 1, 3))


def test_a_training_that_starts_afresh_has_a_new_curve(tmp_path: Path) -> None:
    file = tmp_path / "m"
    for _ in range(2):
        fit(tiny(), loss, Halves(), schedule(), seed=0, metrics=Curve(file))
    assert [step for step, _ in read(file)] == list(range(1, 13))


def test_a_copy_in_another_process_does_nothing(tmp_path: Path) -> None:
    report: Callable[[int, curve.Values], None] = lambda *_: pytest.fail("reported")  # noqa: E731
    copied = pickle.loads(pickle.dumps(Curve(tmp_path / "m", report)))
    copied.resume(0)
    copied.report(1, copied.write(1, {"loss": 1.0}, 8))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_has_no_points(tmp_path: Path) -> None:
    assert read(tmp_path / "m") == []
