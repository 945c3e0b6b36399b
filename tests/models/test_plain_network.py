from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from compress.capabilities import Teacher
from compress.config import Family, ModelConfig
from compress.errors import UserError
from compress.models import build
from compress.tasks import CLASSIFY, DETECT, SEMANTIC
from tests.models.toy import plain

TOY = "tests.models.toy"


def config(**given: Any) -> ModelConfig:
    return replace(ModelConfig(Family.module, target=f"{TOY}.Net", imgsz=32), **given)


def test_a_users_module_becomes_a_model() -> None:
    model = plain(config(args={"classes": 4}), ("a", "b", "c", "d"), CLASSIFY)
    assert model.classes == ("a", "b", "c", "d") and model.task is CLASSIFY
    assert model.prunable()[1].keys() == {"head"}
    sample = {"img": model.example_input(2), "cls": torch.tensor([0, 3])}
    loss = model.loss(model.net, sample)
    loss.backward()
    guided = model.loss(model.net, sample, Teacher(copy.deepcopy(model.net).eval(), weight=0.5))
    assert guided.shape == (2,) and torch.equal(guided[0], loss)
    assert guided[1] > 0  # the entropy of the teacher's answers remains
    alone = Teacher(copy.deepcopy(model.net).eval(), weight=0.5, alone=True)
    assert torch.isclose(model.loss(model.net, {"img": sample["img"]}, alone), guided[1], rtol=1e-3)
    assert loss.ndim == 0 and all(p.grad is not None for p in model.net.parameters())
    out = model.deployed()(model.example_input(2)).numpy()
    assert out.shape == (2, 4) and np.array_equal(model.decode(out), out)


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"target": None}, "model.target"),
        ({"target": "Net"}, "model.target"),
        ({"target": "no.such.module.Net"}, "model.target"),
        ({"target": f"{TOY}.Nothing"}, "model.target"),
        ({"target": f"{TOY}.not_a_module"}, "model.target"),
        ({"target": f"{TOY}.broken"}, "model.args"),
        ({"args": {"wdth": 3}}, "model.args"),
        ({"args": {"width": object}}, "model.args"),
        ({"channels": 1}, "model.imgsz"),
        ({"target": f"{TOY}.Segmenter"}, "model"),
        ({"weights": "nowhere.safetensors"}, "model.weights"),
    ],
)
def test_a_users_mistake_names_its_key(given: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError) as caught:
        build(config(**given))
    assert caught.value.key == key


def test_number_of_classes_must_agree_with_the_data() -> None:
    with pytest.raises(UserError, match="10 classes"):
        build(config(), ("a", "b"))


def test_task_must_agree_with_the_data() -> None:
    with pytest.raises(UserError, match="detect"):
        build(config(), task=DETECT)


def test_odd_weights_name_the_first_tensor_and_both_shapes(tmp_path: Path) -> None:
    state = {k: v.clone() for k, v in plain(config()).net.state_dict().items()}
    save_file(state, tmp_path / "good.safetensors")
    model = plain(config(weights=str(tmp_path / "good.safetensors")))
    assert torch.equal(model.net.state_dict()["head.weight"], state["head.weight"])
    save_file(state | {"head.weight": torch.zeros(7, 32)}, tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match=r"head\.weight has shape \[7, 32\], the network expects \[10, 32\]"):
        build(config(weights=str(tmp_path / "odd.safetensors")))
    state.pop("head.bias")
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(UserError, match="head.bias"):
        build(config(weights=str(tmp_path / "short.safetensors")))


def test_timm() -> None:
    pytest.importorskip("timm")
    given = {"family": Family.timm, "target": None, "name": "mobilenetv3_small_050"}
    model = plain(config(**given), ("a", "b", "c"))
    assert model.prunable()[1].keys() == {"net.classifier"}  # behind its normalisation
    assert model.deployed()(model.example_input()).shape == (1, 3)
    with pytest.raises(UserError, match="mobilenetv3_small_050"):
        build(config(**given | {"name": "mobilenetv3_tiny"}))


def test_torchvisions_networks_for_semantic_segmentation() -> None:
    """They return a dictionary, of which `out` is the output."""
    target = "torchvision.models.segmentation.lraspp_mobilenet_v3_large"
    args = {"weights": None, "weights_backbone": None, "num_classes": 3}
    model = plain(config(target=target, args=args), ("a", "b", "c"), SEMANTIC)
    assert model.task is SEMANTIC and model.prunable()[1].keys() == {"classifier.high_classifier"}
    image = model.example_input(2)
    out = model.deployed()(image)
    assert isinstance(out, torch.Tensor) and out.shape == (2, 3, 32, 32)
    mask = torch.randint(0, 3, (2, 32, 32), dtype=torch.uint8)
    loss = model.loss(model.net, {"img": image, "mask": mask}, Teacher(copy.deepcopy(model.net).eval(), weight=1.0))
    loss.sum().backward()
    assert torch.isfinite(loss).all() and len(model.decode(out.numpy())) == 2
