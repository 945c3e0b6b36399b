"""Searching for a target's graph, on a target whose losses are known beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress import targets
from compress.capabilities import Evaluable
from compress.data import images
from compress.data.dataset import Split
from compress.data.sample import Sample
from compress.errors import TargetFailed
from compress.ledger import Latency
from compress.measurement import latency
from compress.product import Graph, Precision
from compress.quantization import search
from compress.quantization.search import Search
from compress.targets.predictor import LayerMacs, Predictor
from compress.targets.scheme import Scheme
from compress.tasks import CLASSIFY
from tests.fakes import FakeModel

IMAGES = 100
LAYERS = 8


def chain() -> FakeModel:
    """Eight layers; only the names of those that stay in float matter to the target below."""
    torch.manual_seed(0)
    net = nn.Sequential(*[nn.Conv2d(1 if i == 0 else 2, 2, 1) for i in range(LAYERS)], nn.Flatten())
    return FakeModel(net, imgsz=4, channels=1, classes=("a", "b"), exclusions={"5": "the model's own wish"})


class Known:
    """A target: each scheme's options say how many of the 100 images it gets wrong, and how long it takes."""

    def __init__(self, *schemes: Scheme, obtained: str = "measured", needed: int = LAYERS) -> None:
        self.SCHEMES, self.obtained, self.needed = schemes, obtained, needed
        self.made: list[tuple[str, int]] = []
        self.half = 0

    def quantize(
        self, graph: Graph, model: Evaluable, images: Sequence[np.ndarray], folder: Path, scheme: Scheme,
        kept: Mapping[str, str],
    ) -> Graph:  # fmt: skip
        assert len(images) == IMAGES and all(why for why in kept.values()) and "5" not in kept
        if scheme.options["wrong"] < 0:
            raise TargetFailed("this runtime does not take it")
        self.made.append((scheme.description, len(kept)))
        wrong = 0 if len(kept) >= self.needed else self.half if len(kept) and self.half else scheme.options["wrong"]
        folder.mkdir(parents=True)
        path = folder / "graph"
        path.write_text(f"{wrong} {scheme.options.get('ms', 1)} {scheme.options.get('float', 0)}")
        return Graph(path, "known", Precision.int8, scheme.description)

    def load(self, graph: Graph, threads: int) -> Predictor:
        wrong = int(graph.path.read_text().split()[0])
        seen = 0

        def run(image: np.ndarray) -> np.ndarray:
            nonlocal seen
            seen += 1
            return np.array([[1.0, 0.0]] if seen > wrong else [[0.0, 1.0]], np.float32)

        def layers() -> list[LayerMacs]:
            left = int(graph.path.read_text().split()[2])
            return [LayerMacs(str(i), 1, i >= left) for i in range(LAYERS)]

        return Predictor(run, "known", "int8", self.obtained, layers)


LIMIT = 0.02 / search.MARGIN  # a drop of 0.02 is within the limit with its margin


@pytest.fixture
def split() -> Split:
    pixels = np.zeros((4, 4), np.uint8)
    return Split("calibration", [Sample(pixels, 0, (4, 4))] * IMAGES, 4, 1, CLASSIFY)


def searching(
    target: Known, split: Split, folder: Path, patch: pytest.MonkeyPatch, *, timed: bool = True, seconds: float = 60
) -> Search:
    def times(calls: Mapping[str, latency.Call]) -> dict[str, Latency]:
        paths = {name: searched._acceptable()[int(name.split("/")[0])].graph.path for name in calls}
        return {name: Latency(float(path.read_text().split()[1])) for name, path in paths.items()}

    patch.setattr(targets, "get", lambda name: target)
    patch.setattr(latency, "interleaved", times)
    fp32 = folder / "fp32"
    fp32.write_text("0 1 8")
    graph = Graph(fp32, "known", Precision.fp32)
    searched = Search(graph, chain(), split, list(images(split)), folder, LIMIT, seconds, threads=1, timed=timed)
    return searched


def scheme(description: str, wrong: int, ms: float = 1.0, *, fallback: bool = False) -> Scheme:
    return Scheme(description, {"wrong": wrong, "ms": ms}, fallback=fallback)


def test_what_leaves_most_of_the_work_in_float_is_no_candidate(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some, most = (Scheme(f"{left} left", {"wrong": 0, "ms": 0.1, "float": left}) for left in (4, 5))
    searched = searching(Known(scheme("whole", 0), some, most), split, tmp_path, monkeypatch)
    assert searched.run().scheme is some
    assert [each.int8_mac_share for each in searched.tried] == [1.0, 0.5]
    assert searched.failed == ["leaves 62% of the MACs in float"]


def test_on_the_device_the_fastest_within_the_limit_wins(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known(
        scheme("slow", 0, 2.0), scheme("fast", 2, 1.0), scheme("wrong", 3, 0.1), scheme("last", 0, fallback=True)
    )
    searched = searching(known, split, tmp_path, monkeypatch)
    chosen = searched.run()
    assert chosen.scheme.description == "fast" and chosen.drop == pytest.approx(0.02)
    assert [what for what, _ in known.made] == ["slow", "fast", "wrong"]  # no rescue is needed
    assert [each.latency_ms for each in searched.tried] == [2.0, 1.0, None]
    assert searched.sensitivity == {}  # it was not needed


@pytest.mark.parametrize(("wrong", "chosen"), [(1, "fallback"), (9, "close")])
def test_without_margin_to_the_limit_others_are_tried_first(
    wrong: int, chosen: str, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drop of 0.03 is within a limit of 0.035, but may not be on the images that it is judged on."""
    known = Known(scheme("close", 3), scheme("fallback", wrong, fallback=True), needed=LAYERS)
    searched = searching(known, split, tmp_path, monkeypatch, timed=False)
    searched.limit = 0.035
    assert searched.run().scheme.description == chosen


def test_times_within_noise_are_the_same(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Known(scheme("a hair faster", 2, 1.0), scheme("more accurate", 0, 1.01))
    assert searching(known, split, tmp_path, monkeypatch).run().scheme.description == "more accurate"


@pytest.mark.parametrize(("timed", "obtained"), [(False, "measured"), (True, "emulated")])
def test_where_times_say_nothing_the_first_within_the_limit_wins(
    timed: bool, obtained: str, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known(scheme("wrong", 9), scheme("good", 2), scheme("better", 0, 0.1), obtained=obtained)
    chosen = searching(known, split, tmp_path, monkeypatch, timed=timed).run()
    assert chosen.scheme.description == "good" and chosen.latency_ms is None
    assert [what for what, _ in known.made] == ["wrong", "good"]


@pytest.mark.parametrize(
    ("settings", "made"),
    [
        ({}, ["plain"]),
        ({"saturates": True}, ["safe"]),
        ({"portable": True}, ["safe"]),
    ],
)
def test_schemes_that_do_not_saturate_go_first_where_sums_saturate(
    settings: dict[str, Any], made: list[str], split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known(scheme("plain", 0), Scheme("safe", {"wrong": 0, "ms": 1.0}, saturation_safe=True))
    searched = replace(searching(known, split, tmp_path, monkeypatch, timed=False), **settings)
    assert searched.run().scheme.description == made[0]
    assert [what for what, _ in known.made] == made


def test_a_safe_scheme_rescues_where_sums_do_not_saturate(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known(scheme("wrong", 9), Scheme("safe", {"wrong": 1, "ms": 1.0}, saturation_safe=True))
    assert searching(known, split, tmp_path, monkeypatch).run().scheme.description == "safe"


def test_where_sums_saturate_the_fastest_within_the_limit_still_wins(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known(scheme("fast", 1, 0.5), Scheme("safe", {"wrong": 0, "ms": 1.0}, saturation_safe=True))
    chosen = replace(searching(known, split, tmp_path, monkeypatch), saturates=True).run()
    assert chosen.scheme.description == "fast"
    assert [what for what, _ in known.made] == ["safe", "fast"]


def test_a_rescue_is_tried_where_all_others_lose_too_much(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known(scheme("wrong", 9), scheme("rescue", 1, fallback=True))
    assert searching(known, split, tmp_path, monkeypatch).run().scheme.description == "rescue"
    assert known.made == [("wrong", 0), ("rescue", 0)]


def test_the_fewest_layers_stay_in_float_that_do(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Known(scheme("bad", 9), scheme("less bad", 5), needed=3)
    searched = searching(known, split, tmp_path, monkeypatch)
    chosen = searched.run()
    assert chosen.scheme.description == "less bad" and len(chosen.layers_kept) == 3
    order = [name for name, _ in search.ranked(chain(), list(images(split)))]
    assert list(chosen.layers_kept) == [name for name in order if name != "5"][:3]  # that one is in float anyway
    assert list(searched.sensitivity) == order
    assert known.made[2:] == [("less bad", kept) for kept in (4, 2, 3)]


def test_what_cannot_be_rescued_is_the_most_accurate_candidate(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known(scheme("bad", 9), scheme("less bad", 5), needed=LAYERS)
    searched = searching(known, split, tmp_path, monkeypatch)
    known.half = 4  # wrong with half of the layers in float: better, and still not good
    chosen = searched.run()
    assert chosen.scheme.description == "less bad" and not chosen.layers_kept
    assert known.made[-1] == ("less bad", 4)  # half of the layers, and no further


def test_a_candidate_that_cannot_be_made_leaves_the_others(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known(scheme("refused", -1), scheme("good", 1), scheme("refused too", -1))
    searched = searching(known, split, tmp_path, monkeypatch)
    assert searched.run().scheme.description == "good" and len(searched.failed) == 2


def test_where_none_can_be_made_the_target_fails(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Known(scheme("refused", -1), scheme("refused too", -1))
    with pytest.raises(TargetFailed, match="^no scheme can quantize this network: this runtime does not take it$"):
        searching(known, split, tmp_path, monkeypatch).run()


def test_out_of_time_one_candidate_is_made_all_the_same(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known(scheme("wrong", 9), scheme("good", 0))
    chosen = searching(known, split, tmp_path, monkeypatch, seconds=0).run()
    assert chosen.scheme.description == "wrong" and len(known.made) == 1
