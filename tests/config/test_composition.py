from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from compress.config import CONF, RECIPES, Basis, Config, Family, Optimizer, compose, device_profiles, dump
from compress.errors import UserError
from compress.stages import STAGES
from tests.config.refusals import choices, refusal

RECIPE_FILES = sorted(RECIPES.glob("*.yaml"))
GIVEN = {"custom": ["model=yolo26n", "data=digits"]}  # what a recipe leaves to the command line
GROUPS = {folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra"}

# The groups and choices that the contract names; those that exist bear these names.
CONTRACT_GROUPS = {"recipe", "model", "data", "device", "prune", "reconstruct", "finetune", "quantize", "export"}
CONTRACT_GROUPS |= {"target", "metric"}
MODELS = ["checkpoint", "digits_cnn", "drone_nano", "drone_obb", "drone_pose", "drone_segment", "module", "onnx"]
MODELS += ["resnet20", "small_unet", "timm", "tree_crowns", "ultralytics"]
MODELS += ["yolo11n", "yolo26n", "yolov8n"]


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
        "coco": "data.path=coco", "voc": "data.path=VOC2007", "images": "data.path=images",
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


def test_a_custom_recipe_asks_for_model_and_data_and_takes_a_name() -> None:
    assert refusal("recipe=custom").key == "data"
    assert refusal("recipe=custom", "data=digits").key == "model"
    assert compose(["recipe=custom", *GIVEN["custom"]]).recipe_name == "custom"
    assert compose(["recipe=custom", *GIVEN["custom"], "recipe_name=mine"]).recipe_name == "mine"


@pytest.mark.parametrize("recipe", [file.stem for file in RECIPE_FILES])
def test_dump_round_trip(recipe: str) -> None:
    config = compose([f"recipe={recipe}", "seed=3", *GIVEN.get(recipe, [])])
    read = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(dump(config))))
    assert read == config


def test_devices_choose() -> None:
    host, board, old = (
        compose(["recipe=drone_nano", f"device={name}"]) for name in ("host", "raspberry_pi_5", "jetson_nano")
    )
    assert host.targets == ["onnxruntime", "openvino", "tensorrt"] and host.export.opset == 17
    assert (
        board.targets is not None
        and "ncnn" in board.targets
        and "tensorrt" not in board.targets
        and board.device.precisions[0] == "int8"
    )
    assert (old.targets, old.device.precisions, old.export.opset) == (["tensorrt"], ["fp16"], 13)
    told = compose(["recipe=drone_nano", "device=jetson_nano", "targets=[onnxruntime]"])
    assert told.targets == ["onnxruntime"]  # what is named goes first


def test_device_profiles_are_those_of_the_package_and_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / "board.yaml").write_text(
        "defaults: [raspberry_pi_4, _self_]\nname: board\nmemory_gb: {value: 2, source: its label, basis: unverified}\n"
    )
    profiles = device_profiles(["board", "t4", "board"], tmp_path)
    assert list(profiles) == ["board", "t4"]
    board = profiles["board"]
    assert (board.name, board.targets) == ("board", ["onnxruntime", "openvino", "ncnn"])
    assert board.memory_gb is not None and (board.memory_gb.value, board.memory_gb.basis) == (2, Basis.unverified)
    assert set(device_profiles(folder=tmp_path)) - set(device_profiles()) == {"board"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory_gb: {value: 2}", r"memory_gb"),
        ("memory_gb: {value: -2, source: its label}", r"device\.memory_gb\.value=-2"),
        ("peak_gops: {int4: {value: 2, source: its label}}", r"device\.peak_gops=int4: choose from fp32, fp16, int8"),
        ("speed: 3", r"speed"),
    ],
)
def test_an_invalid_profile_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / "board.yaml").write_text(f"name: board\n{text}\n")
    with pytest.raises(UserError, match=message):
        device_profiles(["board"], tmp_path)


def test_an_unknown_device_is_refused_with_the_nearest_names() -> None:
    nearest = r"device=raspbery_pi: there is no such choice; did you mean raspberry_pi_5 or raspberry_pi_4\?"
    with pytest.raises(UserError, match=nearest):
        device_profiles(["raspbery_pi"])
    assert re.match(nearest, str(refusal("recipe=digits", "device=raspbery_pi")))
    with pytest.raises(UserError, match="there is no such folder"):
        device_profiles(folder=Path("nowhere"))


def test_device_profiles_can_be_read_while_the_command_line_composes() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        running = GlobalHydra.instance().hydra
        assert device_profiles(["raspberry_pi_5"])["raspberry_pi_5"].name == "raspberry_pi_5"
        with pytest.raises(UserError):
            device_profiles(["raspbery_pi"])
        assert GlobalHydra.instance().hydra is running
