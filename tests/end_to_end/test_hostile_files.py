"""Files that a stranger wrote run no code, and write nothing outside the run folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from compress.__main__ import command

# What a stranger would like to be imported or called: it leaves a mark that the test looks for.
EVIL = """
from pathlib import Path
Path(__file__).with_name("mark").write_text("ran")
class Anything:
    def __init__(self, *args, **kwargs): pass
    def __call__(self, *args, **kwargs): return self
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a user who keeps a stranger's files in `theirs/`; the module `evil` can be imported."""
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "__init__.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("evil", None)


def ran(home: Path) -> bool:
    return (home / "evil" / "mark").exists()


def write(home: Path, name: str, text: str) -> None:
    file = home / "theirs" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["compress", *words])
    return command()


# --- recipes and config -----------------------------------------------------------------------------------------

RECIPE = "# @package _global_\nstages: []\n"
CONFIGS = {
    "a target": ("recipe/x.yaml", RECIPE + "model: {family: module, target: evil.Anything}\n", ["recipe=x"]),
    "a target in a choice": ("model/x.yaml", "family: module\ntarget: evil.Anything\n", ["recipe=digits", "model=x"]),
    "a target in another group": (
        "data/x.yaml", "# @package model\nfamily: module\ntarget: evil.Anything\n", ["recipe=digits", "data=x"]
    ),
    "a target that text becomes": (
        "recipe/x.yaml", RECIPE + "model: \"${oc.decode:'{family: module, target: evil.Anything}'}\"\n", ["recipe=x"]
    ),
    "trust that a file gives itself": (
        "recipe/x.yaml", RECIPE + "model: {family: module, trust: true, target: evil.Anything}\n", ["recipe=x"]
    ),
    "a callback": ("recipe/x.yaml", RECIPE + "hydra: {callbacks: {x: {_target_: evil.Anything}}}\n", ["recipe=x"]),
    "a launcher": (
        "recipe/x.yaml", RECIPE + "hydra: {launcher: {_target_: evil.Anything}}\n", ["recipe=x", "-m", "seed=1,2"]
    ),
    "a sweeper": (
        "recipe/x.yaml", RECIPE + "hydra: {sweeper: {_target_: evil.Anything}}\n", ["recipe=x", "-m", "seed=1,2"]
    ),
    "a sweep that sets a target": (
        "recipe/x.yaml",
        RECIPE + "hydra: {mode: MULTIRUN, sweeper: {params: {model.target: evil.Anything, model.trust: true}}}\n",
        ["recipe=x", "model=module"],
    ),
    "a log handler": (
        "recipe/x.yaml", RECIPE + "hydra: {job_logging: {handlers: {file: {class: evil.Anything}}}}\n", ["recipe=x"]
    ),
    "a log handler's factory": (
        "recipe/x.yaml", RECIPE + "hydra: {job_logging: {handlers: {x: {'()': evil.Anything}}}}\n", ["recipe=x"]
    ),
    "Hydra's own log": (
        "hydra/hydra_logging/x.yaml", "version: 1\nhandlers: {x: {class: evil.Anything}}\n",
        ["recipe=digits", "hydra/hydra_logging=x"],
    ),
    "a package on the search path": (
        "x.yaml", "defaults: [config, {override recipe: digits}]\nhydra: {searchpath: ['pkg://evil']}\n",
        ["--config-name", "x"],
    ),
    "a path for the run folder": (
        "recipe/x.yaml", RECIPE + "hydra: {run: {dir: elsewhere}}\n", ["recipe=x"]
    ),
    "a path for the run folder, by a detour": (
        "recipe/x.yaml", "# @package _global_\ndefaults: [{/other@_global_.hydra.run: y}]\n", ["recipe=x"]
    ),
    "environment variables": (
        "recipe/x.yaml", RECIPE + "hydra: {job: {env_set: {PYTHONSTARTUP: evil.py}}}\n", ["recipe=x"]
    ),
    "a name that leaves outputs": ("recipe/x.yaml", RECIPE + "recipe_name: ../../elsewhere\n", ["recipe=x"]),
    "a data folder elsewhere": ("recipe/x.yaml", RECIPE + "data: {root: ../elsewhere}\n", ["recipe=x"]),
    "a tag of YAML": ("recipe/x.yaml", RECIPE + "seed: !!python/object/apply:evil.Anything []\n", ["recipe=x"]),
    "a list": ("recipe/x.yaml", "- 1\n", ["recipe=x"]),
    "no text": ("recipe/x.yaml", RECIPE + "model: {name: \0}\n", ["recipe=x"]),
}  # fmt: skip


@pytest.mark.parametrize(("name", "text", "words"), CONFIGS.values(), ids=CONFIGS)
def test_a_config_from_elsewhere_runs_nothing(
    name: str, text: str, words: list[str], home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    write(home, name, text)
    write(home, "other/y.yaml", "dir: elsewhere\n")
    assert run(monkeypatch, "--config-dir", "theirs", *words) == 2
    assert not ran(home)
    assert {path.name for path in home.iterdir()} <= {"evil", "theirs", "outputs"}
    assert [path for path in (home / "outputs").rglob("*") if path.is_file()] == []
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    [line] = err.splitlines()
    assert line.startswith("compress: error: ")
    print(line)  # for whoever wants to read them: pytest -rP


def test_it_says_what_would_run_and_what_allows_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    write(home, *CONFIGS["a target"][:2])
    run(monkeypatch, "--config-dir", "theirs", "recipe=x")
    err = capfd.readouterr().err
    assert all(word in err for word in ("x.yaml", "model.target", "evil.Anything", "model.trust=true"))


def test_the_command_line_can_allow_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, *CONFIGS["a callback"][:2])
    run(monkeypatch, "--config-dir", "theirs", "recipe=x", "model.trust=true", "targets=[abacus]")
    assert ran(home)


def test_what_the_command_line_names_too_is_the_users(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, *CONFIGS["a target"][:2])
    command = ["--config-dir", "theirs", "recipe=x", "model.target=evil.Anything"]
    assert run(monkeypatch, *command, "--cfg", "job") == 0


def test_a_rerun_of_a_pickled_job_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, "config.pickle", "cevil\nAnything\n.")
    assert run(monkeypatch, "--experimental-rerun", "theirs/config.pickle") == 2
    assert not ran(home)


def test_a_recipe_from_elsewhere_that_sets_values_only_is_taken(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """Without a package header too, and the run is named after the file."""
    write(home, "recipe/mine.yaml", "defaults: [digits, _self_]\nbudget: {flops: '40%'}\n")
    assert run(monkeypatch, "--config-dir", "theirs", "recipe=mine", "--cfg", "job") == 0
    out = capfd.readouterr().out
    assert "recipe_name: mine\n" in out
    assert "flops: 40%\n" in out
