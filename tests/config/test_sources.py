from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.sources_registry import SourcesRegistry
from omegaconf import OmegaConf

from compress.config import CONF, RECIPES, sources
from compress.errors import UserError


@pytest.fixture(autouse=True)
def guarded() -> Iterator[None]:
    """Later tests compose with the package's own folders and no overrides."""
    yield
    sources.guard((CONF, RECIPES), [])


def load(folder: Path, name: str, text: str, *overrides: str, own: bool = False) -> dict[str, Any]:
    """The content of a file as Hydra reads it, with these overrides on the command line."""
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    sources.guard((folder,) if own else (), overrides)
    source = SourcesRegistry.instance().types["file"]("theirs", f"file://{folder}")
    content = OmegaConf.to_container(source.load_config(name).config, resolve=False)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


HARMLESS = "prune: {ratio: 0.3}\ndata: {path: '${oc.env:HOME}/data', root: mine}\nmodel: {target: null}\n"


def test_values_and_references_pass(tmp_path: Path) -> None:
    assert load(tmp_path, "recipe/x", HARMLESS)["prune"] == {"ratio": 0.3}


@pytest.mark.parametrize(
    ("name", "text", "key"),
    [
        ("recipe/x", "model: {target: evil.Thing}", "model.target"),
        ("recipe/x", "a: {b: [{_target_: evil.call}]}", "a.b._target_"),
        ("recipe/x", "model: {trust: true}", "model.trust"),
        ("recipe/x", "hydra: {mode: MULTIRUN}", "hydra.mode"),
        ("recipe/x", "log: {'()': evil.Handler}", "log.()"),
        ("recipe/x", "seed: '${evil:1}'", "seed"),
        ("recipe/x", "data: {root: /etc}", "data.root"),
        ("recipe/x", "data: {root: ../../elsewhere}", "data.root"),
        ("recipe/x", "defaults: [{'other@hydra': x}]", "defaults.other@hydra"),
        ("hydra/launcher/x", "anything: 1", "hydra"),
    ],
)
def test_what_could_run_code_or_choose_where_to_write_is_refused(
    name: str, text: str, key: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="set it on the command line") as caught:
        load(tmp_path, name, text)
    assert caught.value.key == f"{tmp_path / name}.yaml: {key}"
    assert load(tmp_path, name, text, "model.trust=true") == load(tmp_path, name, text, own=True)


def test_an_import_path_that_the_command_line_names_too_is_allowed(tmp_path: Path) -> None:
    text = "data: {target: mine.Data}"
    assert load(tmp_path, "recipe/x", text, "data.target=mine.Data")["data"] == {"target": "mine.Data"}
    with pytest.raises(UserError, match="would import mine.Data"):
        load(tmp_path, "recipe/x", text, "data.target=other.Data")
    with pytest.raises(UserError, match="would import mine.Data"):
        load(tmp_path, "recipe/x", text, "recipe_name=mine.Data")  # no import path on the command line


def test_the_last_word_on_trust_counts(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        load(tmp_path, "recipe/x", "model: {target: evil.Thing}", "model.trust=true", "model.trust=false")


def test_a_recipe_names_its_run_unless_it_says_otherwise(tmp_path: Path) -> None:
    assert load(tmp_path, "recipe/mine", "seed: 1")["recipe_name"] == "mine"
    assert load(tmp_path, "recipe/mine", "recipe_name: other")["recipe_name"] == "other"
    assert "recipe_name" not in load(tmp_path, "prune/mine", "ratio: 0.3")


@pytest.mark.parametrize(("text", "message"), [("a: [1", "no YAML"), ("- 1\n- 2", "no keys and values")])
def test_what_is_no_mapping_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path, "recipe/x", text)
    assert caught.value.key == f"{tmp_path}/recipe/x.yaml"


def test_sweeps_and_deletions_are_read(tmp_path: Path) -> None:
    text = "model: {target: two.Net}"
    assert load(tmp_path, "recipe/x", text, "model.target=one.Net,two.Net", "~seed", "not an override")
