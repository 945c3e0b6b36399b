from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import compress
from compress import checkpoint
from compress.config import Family, ModelConfig
from compress.errors import UserError
from compress.models.plain_network import PlainNetwork
from tests.models.toy import plain, randomise

ROOT = Path(__file__).parents[2]


class Small(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.depth(self.down(torch.relu(self.norm(self.stem(x))))).mean((2, 3)))


def by_hand(side: int, channels: int = 3) -> int:
    """MACs of `Small`: output pixels x outputs x inputs of a group x kernel, layer by layer."""
    half = (side // 2) ** 2
    return side**2 * 8 * channels * 9 + half * 16 * 8 * 9 + half * 16 * 9 + 16 * 10


@pytest.fixture
def small_cnn() -> PlainNetwork:
    args = {"width": 8, "channels": 1}
    target = "compress.examples.small_cnn.SmallCNN"
    model = plain(ModelConfig(family=Family.module, target=target, args=args, channels=1, imgsz=16))
    return model.with_net(randomise(model.net))


@pytest.mark.parametrize(("side", "channels"), [(16, 3), (32, 3), (16, 1)])
def test_get_flops(side: int, channels: int) -> None:
    assert compress.get_flops(Small(channels), imgsz=side) == 2 * by_hand(side, channels)


def test_get_flops_is_at_640_pixels_unless_said_otherwise() -> None:
    assert compress.get_flops(nn.Conv2d(3, 1, 1)) == 2 * 640 * 640 * 3


def test_get_flops_leaves_the_network_as_it_was() -> None:
    net = randomise(Small()).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    compress.get_flops(net, 16)
    assert net.training
    assert net.norm.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_get_flops_of_a_model_at_another_size(small_cnn: PlainNetwork) -> None:
    w = 8  # stem, two, down, two; then the head
    macs = 8**2 * w * 9 + 2 * 8**2 * w * w * 9 + 4**2 * 2 * w * w * 9 + 2 * 4**2 * (2 * w) ** 2 * 9 + 4 * w * 10
    assert compress.get_flops(small_cnn, imgsz=16) == 2 * macs
    assert compress.get_flops(small_cnn, imgsz=32) == compress.get_flops(small_cnn.net, imgsz=32) > 2 * macs
    assert small_cnn.imgsz == 16


def test_measure_works_again_and_again() -> None:
    """Modules are imported where they are used; none of them may take the place of the function `measure`."""
    for _ in range(2):
        cost = compress.measure(Small(), torch.zeros(1, 3, 16, 16))
        assert (cost.macs, cost.flops) == (by_hand(16), 2 * by_hand(16))
        assert cost.params == 3 * 8 * 9 + 8 + 2 * 8 + 8 * 16 * 9 + 16 + 16 * 9 + 16 + 16 * 10 + 10


def test_load_gives_the_saved_model(small_cnn: PlainNetwork, tmp_path: Path) -> None:
    checkpoint.save(small_cnn, tmp_path / "pruned")
    loaded = compress.load(str(tmp_path / "pruned"))
    x = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(loaded.net.eval()(x), small_cnn.net.eval()(x))
    assert (loaded.imgsz, loaded.channels, loaded.classes) == (16, 1, small_cnn.classes)
    assert compress.get_flops(loaded, 16) == compress.get_flops(small_cnn, 16)


def test_prune_meets_a_share_of_the_flops(small_cnn: PlainNetwork) -> None:
    full = compress.get_flops(small_cnn, imgsz=16)
    pruned = compress.prune(small_cnn, "70%", compress.PruneConfig(round_to=1))
    assert 0.65 * full < compress.get_flops(pruned, imgsz=16) <= 0.7 * full
    assert compress.get_flops(small_cnn, imgsz=16) == full
    with pytest.raises(UserError, match="can reach"):
        compress.prune(small_cnn, "0.1%")


def test_load_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a readable checkpoint"):
        compress.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("prune.ratio=0.3", "prune"), ("stages=[finetune,prune]", "stages"), ("targets=[abacus]", "targets"),
        ("budget.flops=junk", "budget.flops"), ("budget.flops=-1", "budget.flops"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_work_is_refused_before_any_work(
    override: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before even the data, which is not there, is looked for."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        compress.run(compress.compose(["recipe=digits", "data=image_folder", "data.path=nowhere", override]))
    assert caught.value.key == key
    assert list(tmp_path.iterdir()) == []


def test_importing_compress_is_quick_and_whole() -> None:
    """No torch at import, whose memory setting is in place before it comes; a user's own setting stays."""
    script = """
import os, sys
import compress
assert not {"torch", "onnx", "openvino", "cv2"} & set(sys.modules)
for name in compress.__all__:
    assert callable(getattr(compress, name)), name
print(os.environ["THP_MEM_ALLOC_ENABLE"])
"""
    environment = {"PYTHONPATH": str(ROOT), **{k: v for k, v in os.environ.items() if k == "PATH"}}
    for given, said in (({}, "1"), ({"THP_MEM_ALLOC_ENABLE": "0"}, "0")):
        ended = subprocess.run(
            [sys.executable, "-c", script], env={**environment, **given}, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.strip() == said
