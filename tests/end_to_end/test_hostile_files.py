"""Files that a stranger wrote run no code, and write nothing outside the run folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.command_line import command

# What a stranger would like to be imported or called: it leaves a mark that the test looks for.
EVIL = """
from pathlib import Path
Path(__file__).with_name("mark").write_text("ran")
class Anything:
    def __init__(self, *args, **kwargs): pass
    def __call__(self, *args, **kwargs): return self
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
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


# --- files of models ----------------------------------------------------------------------------------------------


def pickled(home: Path) -> list[str]:
    """A pickle whose loading would import `evil`."""
    from tests.models import hostile

    (home / "theirs").mkdir()
    hostile.by_opcodes(home / "theirs" / "best.pt", b"\x80\x02cevil\nAnything\n)R.")
    return ["model=ultralytics", "model.path=theirs/best.pt"]


def as_weights(home: Path) -> list[str]:
    pickled(home)
    return ["model.weights=theirs/best.pt"]


def as_start(home: Path) -> list[str]:
    pickled(home)
    return ["model.init=theirs/best.pt"]


def checkpoint_of_other_code(home: Path) -> list[str]:
    """Its hashes are right."""
    from compress import checkpoint
    from compress.config import Family, ModelConfig
    from tests.models.test_imported import signed
    from tests.models.toy import plain

    small = "compress.examples.small_cnn.SmallCNN"
    checkpoint.save(plain(ModelConfig(family=Family.module, target=small, imgsz=32)), home / "theirs")
    signed(home / "theirs", {"target": "evil.Anything"})
    return ["model=checkpoint", "model.path=theirs"]


def weights_elsewhere(home: Path) -> list[str]:
    from tests.models.onnx_files import external, save

    (home / "theirs").mkdir()
    save(external(home / "theirs", "../evil/__init__.py"), home / "theirs" / "model.onnx")
    return ["model=onnx", "model.path=theirs/model.onnx", "stages=[]"]


def yaml_of_data(home: Path) -> list[str]:
    write(home, "data.yaml", "train: !!python/object/apply:evil.Anything []\nnames: [a]\n")
    return ["model=yolo26n", "model.imgsz=64", "data=yolo", "data.path=theirs/data.yaml"]


def data_elsewhere(home: Path) -> list[str]:
    write(home, "data.yaml", "path: !!python/name:evil.Anything\ntrain: x\nval: x\nnames: [a]\n")
    return ["model=yolo26n", "model.imgsz=64", "data=yolo", "data.path=theirs/data.yaml"]


MODELS = (pickled, as_weights, as_start, checkpoint_of_other_code, weights_elsewhere, yaml_of_data, data_elsewhere)


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_model_or_data_from_elsewhere_runs_nothing(
    make: Callable[[Path], list[str]], home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    words = make(home)
    capfd.readouterr()
    assert run(monkeypatch, "recipe=digits", *words) == 2
    assert not ran(home)
    out, err = capfd.readouterr()
    [line] = [line for line in err.splitlines() if line.startswith("compress: error: ")]
    assert "Traceback" not in out + err
    assert "theirs" in line or "evil" in line
    assert list((home / "outputs").glob("digits/*/*")) == []


# --- run folders and benches -----------------------------------------------------------------------------------------

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"


def _marked(value: Any) -> Any:
    """Every text in a file's content, with markup behind it; numbers and the words that readers look for stay."""
    if isinstance(value, dict):
        return {key: _marked(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_marked(each) for each in value]
    kept = ("load", "train", "prune", "finetune", "quantize", "export", "measured", "emulated", "not_run")
    return value + MARKUP if isinstance(value, str) and value not in kept else value


def test_a_report_shows_markup_as_text(tmp_path: Path) -> None:
    from compress.report import render
    from tests.report import ledgers

    folder = ledgers.write_run(tmp_path / "run <script>alert(2)<_script>")
    rows = [_marked(row) for row in ledgers.rows()]
    (folder / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "verdict.json").write_text(json.dumps(_marked(ledgers.verdict()) | {"failures": {MARKUP: MARKUP}}))
    (folder / "config.yaml").write_text(yaml.safe_dump(_marked(yaml.safe_load(ledgers.config()))))
    pruning = {"channels": {MARKUP: [64, 32]}, "protected": {MARKUP: MARKUP}, "reachable": [1, 2]}
    (folder / "pruning.json").write_text(json.dumps(pruning))
    tried = {"target": MARKUP, "scheme": MARKUP, "accuracy": 0.5, "drop": 0.1, "seconds": 1.0}
    (folder / "quantization.json").write_text(json.dumps({"candidates": [tried]}))
    (folder / "artifacts" / "onnxruntime").rename(folder / "artifacts" / MARKUP.replace("/", ""))
    page = render(folder).read_text()

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            assert tag not in ("script", "img", "iframe", "link", "object", "embed")
            assert not any(name.startswith("on") or name in ("src", "href", "srcdoc") for name, _ in attributes)

    Tags().feed(page)
    assert page.count("&lt;script&gt;alert(1)") > 50
    assert {path.name for path in tmp_path.iterdir()} == {folder.name}


BENCHES: dict[str, dict[str, Any]] = {
    "a path as target": {"target": "../../elsewhere"},
    "a path among files": {"files": {"../../../etc/passwd": "x"}},
    "an absolute path": {"files": {"/etc/passwd": "x"}},
    "no file": {"files": {"": "x"}},
    "a huge whole number": {"latency_ms": {"median": 10**400, "p95": 10**400, "runs": 5}},
    "a huge number": {"latency_ms": {"median": 1e308, "p95": 1e308, "runs": 5}},
    "infinite": {"latency_ms": {"median": float("inf"), "p95": float("inf"), "runs": 5}},
    "no number": {"latency_ms": {"median": float("nan"), "p95": 1.0, "runs": 5}},
    "too small": {"latency_ms": {"median": 1e-300, "p95": 1.0, "runs": 5}},
    "huge batch": {"batch": 10**400},
    "huge memory": {"peak_memory_bytes": 10**400},
    "huge runs": {"latency_ms": {"median": 1.0, "p95": 1.0, "runs": 10**400}},
    "codes for the terminal": {"device": "\x1b]0;mine\x07Jetson"},
    "several lines": {"runtime": "tensorrt\ncompress: error: pay"},
    "a long name": {"device": "x" * 10**6},
}


@pytest.mark.parametrize("name", BENCHES)
def test_an_odd_bench_is_one_error(name: str, tmp_path: Path) -> None:
    from compress.errors import UserError
    from compress.report import bench_results
    from tests.report import ledgers

    folder = ledgers.write_run(tmp_path / "run")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / "bench.json").write_text(json.dumps(ledgers.bench(**BENCHES[name])))
    with pytest.raises(UserError) as caught:
        bench_results.add(folder, tmp_path / "bench.json")
    said = str(caught.value)
    assert len(said) < 1000 and said.isprintable()
    (tmp_path / "bench.json").unlink()
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a":' * 10**5, "1" * 5000, "\0", "[]", ""])
def test_a_bench_that_is_no_object(text: str, tmp_path: Path) -> None:
    from compress.errors import UserError
    from compress.report import bench_results
    from tests.report import ledgers

    folder = ledgers.write_run(tmp_path / "run")
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(UserError):
        bench_results.add(folder, tmp_path / "bench.json")


def test_a_benchs_markup_is_text_in_the_report(tmp_path: Path) -> None:
    from compress.report import bench_results, render
    from tests.report import ledgers

    folder = ledgers.write_run(tmp_path / "run")
    (tmp_path / "bench.json").write_text(json.dumps(ledgers.bench(device=f"Jetson {MARKUP}", runtime=MARKUP)))
    bench_results.add(folder, tmp_path / "bench.json")
    page = render(folder).read_text()
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune: {ratio: much}", "recipe/x.yaml: prune.ratio=much: set a number, or null"),
        ("prune: {ratoi: 1}", "recipe/x.yaml: prune.ratoi=…: there is no such key; did you mean prune.ratio?"),
        ("prune: {objective: speed}", "recipe/x.yaml: prune.objective=speed: set one of: flops, latency"),
        ("stages: [bake]", "stages=bake: there is no such stage; choose from: train, prune"),
        ("stages: null", "recipe/x.yaml: stages=…: set a list in brackets, [a,b]"),
        ("prune: 3", "recipe/x.yaml=unreadable: "),
        ("defaults: 3", "recipe/x.yaml=unreadable: "),
        ("defaults: [nobody]", "recipe=nobody: there is no such choice"),
    ],
)
def test_a_mistake_in_a_file_names_the_file(
    text: str, message: str, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    write(home, "recipe/x.yaml", text + "\n")
    assert run(monkeypatch, "--config-dir", "theirs", "recipe=x") == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(f"compress: error: {message}")
