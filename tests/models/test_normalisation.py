"""The normalisation of a classifier is the first operation of its network, and the same as in timm's own pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import compress
from compress import checkpoint, targets
from compress.config import ExportConfig, Family, ModelConfig
from compress.errors import UserError
from compress.measurement import flops
from compress.models import build, normalisation
from compress.models.plain_network import PlainNetwork
from compress.targets import artifact
from tests.models.toy import Net


def built(config: ModelConfig) -> PlainNetwork:
    model = build(config)
    assert isinstance(model, PlainNetwork)
    return model


def timm_model(name: str, **given: Any) -> PlainNetwork:
    pytest.importorskip("timm")
    return built(ModelConfig(Family.timm, name=name, imgsz=64, **given))


def toy(**given: Any) -> PlainNetwork:
    return built(ModelConfig(Family.module, target=f"{Net.__module__}.Net", imgsz=32, **given))


def loaded(folder: Path, *, trust: bool = False) -> PlainNetwork:
    model = compress.load(folder, trust=trust)
    assert isinstance(model, PlainNetwork)
    return model


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050"])
def test_logits_are_those_of_timms_own_pipeline(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from PIL import Image

    model = timm_model(name)
    theirs = timm.create_model(name, pretrained=False).eval()
    theirs.load_state_dict(normalisation.inner(model.net).state_dict())
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    config = timm.data.resolve_data_config({"input_size": (3, 64, 64), "crop_pct": 1.0}, model=theirs)
    assert config["mean"] == timm.get_pretrained_cfg(name).mean
    transformed = timm.data.create_transform(**config)(Image.fromarray(pixels))[None]
    ours = (np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]) / np.float32(255)).astype(np.float32)
    with torch.no_grad():
        wanted = theirs(transformed).numpy()
        torch.testing.assert_close(model.deployed()(torch.from_numpy(ours)).numpy(), wanted, rtol=1e-4, atol=1e-5)
        assert abs(theirs(torch.from_numpy(ours)).numpy() - wanted).max() > 100 * 1e-5  # without it they differ
    graph = targets.get("onnxruntime").convert(model, tmp_path, ExportConfig())
    exported = targets.get("onnxruntime").load(graph, 1)(ours)
    np.testing.assert_allclose(exported, wanted, rtol=1e-3, atol=1e-4)


def test_it_costs_no_macs_and_pruning_sees_through_it() -> None:
    plain, model = toy(), toy(mean=[0.5], std=[0.25])
    assert model.statistics == ((0.5,) * 3, (0.25,) * 3)
    counts = [flops.count(each.deployed(), each.example_input()) for each in (plain, model)]
    assert counts[0].macs == counts[1].macs and counts[0].other_flops < counts[1].other_flops
    pruned = compress.prune(model, "60%")
    assert compress.get_flops(pruned) <= 0.6 * compress.get_flops(model)
    assert isinstance(pruned.net, normalisation.Normalised)


def test_a_checkpoint_keeps_it_and_old_ones_have_none(tmp_path: Path) -> None:
    model = toy(mean=[0.1, 0.2, 0.3], std=[1.0, 2.0, 3.0], protected=["head"])
    pruned = compress.prune(model, "60%")
    assert isinstance(pruned, PlainNetwork)
    checkpoint.save(pruned, tmp_path / "new")
    assert loaded(tmp_path / "new", trust=True).statistics == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    checkpoint.save(toy(), tmp_path / "old")
    old = loaded(tmp_path / "old", trust=True)
    assert old.statistics is None and "mean" not in old.constructor()
    with pytest.raises(UserError, match=r"^model\.mean"):
        build(ModelConfig(Family.checkpoint, path=str(tmp_path / "old"), trust=True, mean=[0.5], std=[0.5]))


def test_weights_fit_the_network_inside(tmp_path: Path) -> None:
    """Tensors of a library's own file have no prefix, those of a checkpoint have one."""
    plain, model = toy(), toy(mean=[0.5], std=[0.5])
    checkpoint.save(plain, tmp_path / "plain")
    checkpoint.save(model, tmp_path / "normalised")
    torch.save(plain.net.state_dict(), tmp_path / "state.pt")
    given = {"mean": [0.5], "std": [0.5]}
    from_file = toy(weights=str(tmp_path / "state.pt"), **given)
    again = toy(weights=str(tmp_path / "normalised"))
    for made, source in ((from_file, plain), (again, model)):
        assert made.statistics == model.statistics
        wanted = normalisation.inner(source.net).state_dict()
        assert all(
            torch.equal(value, wanted[name]) for name, value in normalisation.inner(made.net).state_dict().items()
        )
    started = toy(init=str(tmp_path / "normalised"))
    assert started.statistics is None


def test_the_manifest_says_what_the_reader_must_apply() -> None:
    model = timm_model("mobilenetv3_small_050")
    said = artifact.preprocessing(model)
    assert said["mean"] == [0.0, 0.0, 0.0] and said["std"] == [1.0, 1.0, 1.0]
    assert said["normalised_in_graph"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert said["timm"]["crop_pct"] == 0.875 and said["timm"]["interpolation"] == "bicubic"
    assert artifact.preprocessing(toy())["normalised_in_graph"] is None


def test_none_where_it_changes_nothing_or_is_switched_off() -> None:
    assert isinstance(toy(mean=[0.0], std=[1.0]).net, Net)
    off = timm_model("mobilenetv3_small_050", mean=[0.0], std=[1.0])
    assert off.statistics is None
    grey = timm_model("tf_efficientnet_lite0", channels=1)
    assert grey.statistics == ((0.5,), (0.5,))


def test_mistakes() -> None:
    with pytest.raises(UserError, match=r"^model\.mean"):
        toy(mean=[0.1, 0.2], std=[1.0, 1.0])
    with pytest.raises(UserError, match=r"^model\.std"):
        toy(mean=[0.1], std=[0.0])
    with pytest.raises(UserError, match=r"^model\.mean.*without normalisation"):
        build(ModelConfig(name="yolov8n", imgsz=64, mean=[0.5], std=[0.5]), ("a",))


def test_a_checkpoint_keeps_other_activations_behind_it(tmp_path: Path) -> None:
    from compress.config import Activation, FinetuneConfig
    from compress.finetuning import activated

    model = activated(timm_model("mobilenetv3_small_050"), FinetuneConfig(activation=Activation.relu), "finetune")
    assert isinstance(model, PlainNetwork)
    checkpoint.save(model, tmp_path)
    again = loaded(tmp_path)
    assert "Hardswish" not in str(again.net) and again.statistics is not None
    with torch.no_grad():
        example = model.example_input()
        assert torch.equal(again.deployed()(example), model.deployed()(example))
