from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from compress.config import CONF, RECIPES, Config, Family, Optimizer, compose, dump
from compress.errors import UserError
from compress.stages import STAGES

ROOT = Path(__file__).parents[1]
RECIPE_FILES = sorted(RECIPES.glob("*.yaml"))
GIVEN = {"custom": ["model=yolo26n", "data=digits"]}  # what a recipe leaves to the command line
GROUPS = {folder.name for folder in CONF.iterdir() if folder.is_dir()}

# The groups and choices that the contract names; those that exist bear these names.
CONTRACT_GROUPS = {"recipe", "model", "data", "device", "prune", "finetune", "quantize", "export", "target"}
MODELS = ["checkpoint", "digits_cnn", "drone_nano", "module", "onnx", "timm", "tree_crowns", "ultralytics"]
MODELS += ["yolo11n", "yolo26n", "yolov8n"]


def refusal(*overrides: str) -> UserError:
    with pytest.raises(UserError) as caught:
        compose(list(overrides))
    return caught.value


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


# --- what is shipped ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", RECIPE_FILES, ids=lambda file: file.stem)
def test_every_recipe_composes(file: Path) -> None:
    config = compose([f"recipe={file.stem}", *GIVEN.get(file.stem, [])])
    assert isinstance(config, Config)
    assert config.recipe_name == file.stem
    assert config.targets or config.data.name == "none"
    assert set(config.stages) <= set(STAGES)
    if "prune" in config.stages:
        assert (config.prune.ratio is None) != (config.budget.flops is None)


@pytest.mark.parametrize("file", RECIPE_FILES, ids=lambda file: file.stem)
def test_the_first_line_says_the_goal_and_the_command(file: Path) -> None:
    goal, _, command = file.read_text().splitlines()[0].partition(": python -m compress ")
    assert goal.startswith("# ")
    assert command.split()[0] == f"recipe={file.stem}"


def test_drone_nano_is_as_the_contract_has_it() -> None:
    config = compose(["recipe=drone_nano"])
    assert (config.model.family, config.model.name, config.model.imgsz) == (Family.ultralytics, "yolo26n", 256)
    assert config.stages == ["prune", "finetune", "quantize", "export"]
    assert config.targets == ["onnxruntime", "openvino", "tensorrt"]
    assert (config.budget.flops, config.data.name, config.device.name) == ("50%", "field_scenes", "host")


def test_profile_measures_only() -> None:
    config = compose(["recipe=profile"])
    assert config.stages == []
    assert set(dataclasses.asdict(config.budget).values()) == {None}


def test_groups_are_those_of_the_contract() -> None:
    assert {"model", "data", "device", "prune", "finetune", "quantize", "export"} <= GROUPS
    assert GROUPS <= CONTRACT_GROUPS
    assert choices("model") == MODELS
    assert {"field_scenes", "digits", "yolo", "image_folder"} <= set(choices("data"))
    assert "host" in choices("device")


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_every_choice_composes(group: str) -> None:
    given = {
        "timm": "model.name=resnet18", "module": "model.target=pkg.Net", "checkpoint": "model.path=pruned",
        "onnx": "model.path=model.onnx", "data/module": "data.target=pkg.MyData",
        "ultralytics": "model.path=best.pt", "yolo": "data.path=data.yaml", "image_folder": "data.path=images",
    }  # fmt: skip
    for choice in choices(group):
        override = given.get(f"{group}/{choice}", given.get(choice))
        overrides = [] if override is None else [override]
        config = getattr(compose(["recipe=profile", f"{group}={choice}", *overrides]), group)
        if group in ("data", "device"):
            assert config.name == choice
        for override in overrides:
            key, value = override.removeprefix(f"{group}.").split("=")
            assert getattr(config, key) == value


def test_data_choices_are_the_data_sets_there_are() -> None:
    from compress.data import LOADERS

    assert choices("data") == sorted([*LOADERS, "none"])


def test_prune_choices_name_methods_there_are() -> None:
    from compress.pruning.importance import IMPORTANCES
    from compress.pruning.solver import ALLOCATIONS

    for choice in choices("prune"):
        config = compose(["recipe=profile", f"prune={choice}"]).prune
        assert config.importance in IMPORTANCES
        assert config.allocation in ALLOCATIONS


# --- what a user gives ----------------------------------------------------------------------------------------


def test_overrides_arrive_typed() -> None:
    config = compose(
        ["recipe=digits", "prune.ratio=0.3", "budget.flops=1.2G", "seed=7", "cache=off", "finetune.optimizer=sgd"]
        + ["stages=[prune,export]", "targets=[openvino]", "+model.args.width=16", "data.path=some/where"]
    )
    assert (config.prune.ratio, config.budget.flops, config.seed, config.cache) == (0.3, "1.2G", 7, False)
    assert config.finetune.optimizer is Optimizer.sgd
    assert config.stages == ["prune", "export"]
    assert config.targets == ["openvino"]
    assert config.model.args == {"channels": 1, "width": 16}
    assert config.data.path == "some/where"


def test_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert compose(["recipe=digits"]).data.name == "digits"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "begin"),
    [
        (["recipe=dron_nano"], "recipe=dron_nano: there is no such choice; did you mean drone_nano?"),
        ([], "recipe=???: "),
    ],
)
def test_a_recipe_that_is_not_there_lists_those_that_are(overrides: list[str], begin: str) -> None:
    message = str(refusal(*overrides))
    assert message.startswith(begin)
    assert all(file.stem in message for file in RECIPE_FILES)
    assert "\n" not in message


def test_a_custom_recipe_asks_for_model_and_data_and_takes_a_name() -> None:
    assert refusal("recipe=custom").key == "data"
    assert refusal("recipe=custom", "data=digits").key == "model"
    assert compose(["recipe=custom", *GIVEN["custom"]]).recipe_name == "custom"
    assert compose(["recipe=custom", *GIVEN["custom"], "recipe_name=mine"]).recipe_name == "mine"


@pytest.mark.parametrize("group", ["model", "data", "prune"])
def test_a_choice_that_is_not_there_lists_those_that_are(group: str) -> None:
    message = str(refusal("recipe=digits", f"{group}=nobody"))
    assert message.startswith(f"{group}=nobody: there is no such choice")
    assert all(choice in message for choice in choices(group))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prune.ratoi=0.3", "prune.ratoi=0.3: there is no such key; did you mean prune.ratio? (keys of prune: ratio,"),
        ("+prune.ratoi=0.3", "prune.ratoi=0.3: there is no such key; did you mean prune.ratio?"),
        ("prun=taylor", "prun=taylor: there is no such key; did you mean prune?"),
        ("~sed", "sed=: there is no such key; did you mean seed?"),
        ("sed=1", "sed=1: there is no such key; did you mean seed?"),
        ("+sed=1", "sed=1: there is no such key; did you mean seed?"),
        ("seed=abc", "seed=abc: set a whole number"),
        ("seed=-1", "seed=-1: set a whole number"),
        ("cache=maybe", "cache=maybe: set true or false"),
        ("prune.ratio=much", "prune.ratio=much: set a number, or null"),
        ("finetune.optimizer=adam", "finetune.optimizer=adam: set one of: sgd, adamw; did you mean adamw?"),
        ("finetune.activation=silu", "finetune.activation=silu: set one of: relu, relu6, or null"),
        ("stages=prune", "stages=prune: set a list in brackets, [a,b]"),
        ("targets=3", "targets=3: set a list in brackets, [a,b], or null"),
        ("model.args=3", "model.args=3: set keys and values in braces"),
        ("budget=50%", "budget=50%: set one of its keys: flops,"),
        ("seed", "seed=: set a value: key=value"),
        ("data.path=a,b", "data.path=a,b: add -m to sweep over these values"),
        ("data.path=a(b", "data.path=a(b: this cannot be read; put values with"),
        ("=3", "config=recipe=digits =3: "),
        ("recipe_name=../x", "recipe_name=../x: set letters, digits"),
        ("seed=${nobody}", "seed=${nobody}: "),
    ],
)
def test_a_mistake_names_key_value_and_remedy(override: str, message: str) -> None:
    found = str(refusal("recipe=digits", override))
    assert found.startswith(message)
    jargon = ("full_key", "\n", "hydra.cc", "Could not", "EOF", "struct", "Error merging", "provider=")
    assert [word for word in jargon if word in found] == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prune.ratio", 1.0), ("prune.ratio", -0.1), ("prune.ratio", 30.0), ("prune.round_to", 0),
        ("prune.max_ratio", 7.0), ("finetune.images", 0), ("finetune.batch", -1), ("train.images", -1),
        ("finetune.learning_rate", 0.0), ("finetune.learning_rate", float("inf")), ("finetune.warmup", 2.0),
        ("train.ema", 1.0), ("data.calibration_images", 0), ("model.imgsz", -256),
        ("model.channels", -1), ("threads", 0),
        ("export.opset", 22), ("budget.max_accuracy_drop", 1.0), ("quantize.max_accuracy_drop", 2.0),
        ("finetune.distillation", -1.0),
    ],
)  # fmt: skip
def test_out_of_range(key: str, value: float) -> None:
    error = refusal("recipe=digits", f"{key}={value}")
    assert (error.key, error.value) == (key, value)
    assert str(error).startswith(f"{key}={value}: ")


@pytest.mark.parametrize("key", ["prune.ratio", "finetune.learning_rate"])
def test_not_a_number(key: str) -> None:
    assert refusal("recipe=digits", f"{key}=nan").key == key


@pytest.mark.parametrize(
    ("choice", "key"),
    [
        ("model=timm", "model.name"), ("model=module", "model.target"), ("model=checkpoint", "model.path"),
        ("model=ultralytics", "model.path"), ("data=yolo", "data.path"), ("data=image_folder", "data.path"),
    ],
)  # fmt: skip
def test_a_missing_value_is_named(choice: str, key: str) -> None:
    assert refusal("recipe=profile", choice).key == key


@pytest.mark.parametrize("recipe", [file.stem for file in RECIPE_FILES])
def test_dump_round_trip(recipe: str) -> None:
    config = compose([f"recipe={recipe}", "seed=3", *GIVEN.get(recipe, [])])
    read = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(dump(config))))
    assert read == config


# --- the command line -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recipe=nobody"], ["recipe=nobody", "digits", "drone_nano"]),
        (["recipe=digits", "-m", "seed=1,b"], ["seed=1,b: set a whole number"]),
        (["--config-name", "none", "recipe=digits"], ["--config-name=none: there is no such file"]),
        (["--config-dir", "none", "recipe=digits"], ["--config-dir=none: there is no such folder"]),
        (["recipe=digits", "--none"], ["unrecognized arguments: --none"]),
        (["recipe=digits", "prune.ratio=0.3"], ["prune.ratio=0.3", "budget.flops=50%", "either"]),
        (["recipe=digits", "budget.flops=null"], ["prune.ratio=None", "budget.flops=None", "either"]),
    ],
    ids=["unknown recipe", "sweep", "config", "folder", "option", "ratio and budget", "neither ratio nor budget"],
)
def test_a_users_mistake_exits_2_and_leaves_nothing_behind(
    arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "compress", *arguments],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 2, ended.stderr
    [line] = ended.stderr.splitlines()
    assert line.startswith("compress: error: ")
    assert all(word in line for word in words)
    assert "Traceback" not in ended.stdout + ended.stderr
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
    assert list((tmp_path / "outputs").glob("*/20*")) + list((tmp_path / "outputs").glob("sweeps/*/*")) == []


def test_help_needs_no_recipe(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "compress", "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert all(path.stem in done.stdout for path in (*RECIPES.glob("*.yaml"), *CONF.glob("*/*.yaml")))


def test_a_reader_of_the_output_may_leave(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "compress", "--help"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0
