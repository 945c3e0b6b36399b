"""Search with Optuna: the search space, what is recorded, and continuing."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from compress import search
from compress.config import compose
from compress.errors import UserError

pytest.importorskip("optuna")


def config(folder: Path, *overrides: str, **settings: Any) -> DictConfig:
    composed = OmegaConf.structured(compose(["recipe=digits", *overrides]))
    sweeper = {"objective": "flops", "n_trials": 6, "n_jobs": 1, "seed": 0, "params": {}} | settings
    node = {"sweep": {"dir": str(folder)}, "sweeper": sweeper}
    result = OmegaConf.merge(OmegaConf.create(OmegaConf.to_container(composed)), {"hydra": node})
    assert isinstance(result, DictConfig)
    return result


class Launcher:
    """Stands in for Hydra's: the accuracy of a point is 1 - |prune.ratio - 0.5|, its FLOPs are 1 - prune.ratio."""

    def __init__(self, stop_at: int = 99, fails: bool = False) -> None:
        self.batches: list[list[dict[str, str]]] = []
        self.stop_at, self.fails = stop_at, fails

    def launch(self, overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[SimpleNamespace]:
        self.batches.append([dict(word.split("=", 1) for word in words) for words in overrides])  # type: ignore[misc]
        if len(self.batches) > self.stop_at:
            raise KeyboardInterrupt
        values = [float(point["prune.ratio"]) for point in self.batches[-1]]
        objectives = [(math.nan, math.nan) if self.fails else (1 - abs(x - 0.5), 1 - x) for x in values]
        return [SimpleNamespace(return_value=each) for each in objectives]

    @property
    def points(self) -> list[dict[str, str]]:
        return [point for batch in self.batches for point in batch]


WORDS = ["recipe=digits", "prune.ratio=interval(0.1,0.9)", "prune.importance=taylor,lamp", "seed=3"]


def run(launcher: Launcher, settings: DictConfig, words: Sequence[str] = WORDS) -> list[list[list[str]]]:
    validated: list[list[list[str]]] = []
    search.run(settings, launcher, validated.append, words)  # type: ignore[arg-type]
    return validated


def test_points_are_drawn_from_the_space_and_fixed_keys_stay(tmp_path: Path) -> None:
    launcher = Launcher()
    validated = run(launcher, config(tmp_path, params={"prune.ratio": 0.3, "prune.round_to": "4,8", "threads": None}))
    assert len(launcher.points) == 6 and len(validated) == 1
    for point in launcher.points:
        assert (point["recipe"], point["seed"]) == ("digits", "3")
        assert 0.1 <= float(point["prune.ratio"]) <= 0.9
        assert point["prune.importance"] in ("taylor", "lamp") and point["prune.round_to"] in ("4", "8")
        assert "threads" not in point
    assert len({point["prune.ratio"] for point in launcher.points}) == 6
    count = sqlite3.connect(tmp_path / search.STUDY).execute("SELECT COUNT(*) FROM trials").fetchone()
    assert count == (6,) and (tmp_path / "multirun.yaml").is_file()


def test_an_interrupted_point_runs_again_first_and_counts_once(tmp_path: Path) -> None:
    first = Launcher(stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        run(first, config(tmp_path))
    second = Launcher()
    run(second, config(tmp_path))
    assert second.points[0] == first.points[2]
    assert len(second.points) == 4  # two were finished
    assert len({point["prune.ratio"] for point in first.points[:2] + second.points}) == 6
    third = Launcher()
    run(third, config(tmp_path))
    assert third.points == []
    run(third, config(tmp_path, n_trials=8, n_jobs=2))
    assert [len(batch) for batch in third.batches] == [2]


def test_the_search_ends_if_its_first_points_fail(tmp_path: Path) -> None:
    launcher = Launcher(fails=True)
    run(launcher, config(tmp_path, n_trials=40))
    assert len(launcher.points) == search.GIVE_UP


@pytest.mark.parametrize(
    ("settings", "words", "message"),
    [
        ({"objective": "size"}, WORDS, "hydra.sweeper.objective=size: set flops or latency"),
        ({}, ["recipe=digits"], "no key has several values"),
        ({}, ["prune.ratio=interval(0.9,0.1)"], "prune.ratio="),
        ({"objective": "latency"}, WORDS, "device=host: the objective latency is a prediction"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    settings: dict[str, Any], words: list[str], message: str, tmp_path: Path
) -> None:
    launcher = Launcher()
    with pytest.raises(UserError, match=message):
        run(launcher, config(tmp_path, **settings), words)
    assert launcher.batches == [] and list(tmp_path.iterdir()) == []


def test_a_study_keeps_its_objective_and_its_space(tmp_path: Path) -> None:
    run(Launcher(), config(tmp_path, n_trials=1))
    with pytest.raises(UserError, match="has the objective flops"):
        run(Launcher(), config(tmp_path, "device=raspberry_pi_5", objective="latency"))
    words = [*WORDS[:2], "prune.importance=lamp,fpgm"]
    with pytest.raises(UserError, match="its study has another search space"):
        run(Launcher(), config(tmp_path, n_trials=2), words)
    (tmp_path / search.STUDY).write_text("rubbish")
    with pytest.raises(UserError, match=r"study.db in it cannot be used"):
        run(Launcher(), config(tmp_path, n_trials=2))
