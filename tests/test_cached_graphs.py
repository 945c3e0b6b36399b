from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from compress import cached_graphs
from compress.cache import Cache
from compress.capabilities import TopK
from compress.errors import TargetFailed
from compress.product import Graph, Precision
from tests.fakes import small_model


class Maker:
    """Writes one OpenVINO graph and counts its calls."""

    def __init__(self, value: str = "good") -> None:
        self.calls, self.value = 0, value

    def __call__(self, folder: Path) -> tuple[Sequence[Graph], str]:
        self.calls += 1
        (folder / "int8").mkdir()
        for suffix in (".xml", ".bin"):
            (folder / "int8" / f"model{suffix}").write_text(f"{suffix} {self.calls}")
        (folder / "manifest.json").write_text("{}")
        path = folder / "int8" / "model.xml"
        graph = Graph(path, "openvino", Precision.int8, "NNCF", {"a": "first"}, {"images": 3}, TopK(2, 300))
        return [graph], self.value


@pytest.fixture
def store(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_a_graph_that_was_made_before_is_copied(store: Cache, tmp_path: Path) -> None:
    maker = Maker()
    (made,), value, cached = cached_graphs.fetch(store, "quantize", {"x": 1}, maker, tmp_path / "one" / "openvino")
    assert (maker.calls, value, cached) == (1, "good", False)
    folder = tmp_path / "two" / "openvino"
    (again,), value, cached = cached_graphs.fetch(store, "quantize", {"x": 1}, maker, folder)
    assert (maker.calls, value, cached) == (1, "good", True)
    assert again == replace(made, path=folder / "int8" / "model.xml")
    assert again.contents() == made.contents() and (folder / "manifest.json").is_file()
    made.path.write_text("changed")  # a copy: neither the cache nor the other run changes
    assert cached_graphs.fetch(store, "quantize", {"x": 1}, maker, tmp_path / "three" / "openvino")[2]
    assert not cached_graphs.fetch(store, "quantize", {"x": 2}, maker, tmp_path / "four" / "openvino")[2]


def test_what_is_no_longer_usable_is_made_again(store: Cache, tmp_path: Path) -> None:
    first, second = Maker("disturbed"), Maker("good")

    def fetch(maker: Maker) -> tuple[str, bool]:
        return cached_graphs.fetch(store, "q", {}, maker, tmp_path / "o", lambda value: value == "good")[1:]

    assert fetch(first) == ("disturbed", False)  # what was just made is taken as it is
    assert fetch(second) == ("good", False)
    assert fetch(second) == ("good", True)


def test_a_failure_leaves_no_entry(store: Cache, tmp_path: Path) -> None:
    def fail(folder: Path) -> tuple[Sequence[Graph], None]:
        (folder / "half.onnx").write_text("half")
        raise TargetFailed("no operator")

    with pytest.raises(TargetFailed, match="no operator"):
        cached_graphs.fetch(store, "q", {}, fail, tmp_path / "o")
    cached_graphs.fetch(store, "q", {}, Maker(), tmp_path / "o")
    assert not (tmp_path / "o" / "half.onnx").exists()


def test_the_user_s_own_code_and_packages_are_inputs(
    store: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Maker()
    for version in ("1", "2"):
        monkeypatch.setattr(cached_graphs, "versions", lambda version=version: {"onnxruntime": version})
        cached_graphs.fetch(store, "q", {}, maker, tmp_path / "o")
    monkeypatch.setattr(cached_graphs.user_code, "digests", lambda: {"mine": "hash"})
    cached_graphs.fetch(store, "q", {}, maker, tmp_path / "o")
    assert maker.calls == 3


def test_the_key_of_a_model_has_its_weights_and_its_description() -> None:
    model = small_model()
    key = cached_graphs.model_key(model)
    assert key["model"] == model.identity() and key == cached_graphs.model_key(model.with_net(model.net))
    assert key != cached_graphs.model_key(model.with_imgsz(2 * model.imgsz))
    assert key != cached_graphs.model_key(replace(model, classes=("x", "y", "z")))
