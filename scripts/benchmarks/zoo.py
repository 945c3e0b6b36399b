"""Prunes architectures of many families to half their FLOPs and reports which of them the pipeline supports.

    python scripts/benchmarks/zoo.py [NAME ...] [--fraction 0.5] [--out outputs/benchmarks/zoo.jsonl]

Each timm model, with random weights, is pruned to a fraction of its FLOPs, run forward and backward and exported to
ONNX; then ONNX Runtime's output is compared with torch's. Each model has its own process, so a crash or a hang affects
no other. Rows are stored in --out: the same command continues an interrupted run. The exit status is 1 if fewer than
nine in ten models succeed.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import torch

from compress import atomic, targets
from compress.capabilities import Prunable, Trainable, require
from compress.config import ExportConfig, Family, ModelConfig, PruneConfig
from compress.errors import TargetFailed, UserError
from compress.models import build
from compress.pruning.solver import prune_to_flops
from compress.stages.prune import counter
from compress.tasks.outputs import first

IMGSZ = 224
TOLERANCE = 0.02  # the budget may be missed from below by this fraction of the full FLOPs
AGREEMENT = 1e-3  # largest difference of ONNX Runtime from torch, relative to the largest output
SECONDS = 300  # time limit per model
GOAL = 0.9  # fraction of models that must succeed

ZOO = {
    "ResNet": ["resnet18", "resnet50", "resnet26d"],
    "ResNeXt": ["resnext50_32x4d"],
    "Wide ResNet": ["wide_resnet50_2"],
    "SE-ResNet": ["seresnet50"],
    "ECA-ResNet": ["ecaresnet26t"],
    "RegNet": ["regnetx_002", "regnety_004"],
    "DenseNet": ["densenet121"],
    "VGG": ["vgg11_bn", "vgg16"],
    "Inception": ["inception_v3", "inception_v4"],
    "Xception": ["xception41"],
    "MobileNetV1": ["mobilenetv1_100"],
    "MobileNetV2": ["mobilenetv2_100", "mobilenetv2_050"],
    "MobileNetV3": ["mobilenetv3_small_100", "mobilenetv3_large_100"],
    "MobileNetV4": ["mobilenetv4_conv_small", "mobilenetv4_conv_medium"],
    "MnasNet": ["mnasnet_100", "semnasnet_075"],
    "FBNet": ["fbnetc_100"],
    "SPNASNet": ["spnasnet_100"],
    "EfficientNet": ["efficientnet_b0", "efficientnet_b1"],
    "EfficientNet-Lite": ["efficientnet_lite0"],
    "EfficientNetV2": ["tf_efficientnetv2_b0", "efficientnetv2_rw_t"],
    "ConvNeXt": ["convnext_atto", "convnext_tiny"],
    "ConvNeXtV2": ["convnextv2_atto"],
    "GhostNet": ["ghostnet_100", "ghostnetv2_100"],
    "RepVGG": ["repvgg_a0"],
    "Res2Net": ["res2net50_26w_4s"],
    "DLA": ["dla34", "dla60"],
    "HRNet": ["hrnet_w18_small"],
    "CSPNet": ["cspresnet50", "cspdarknet53"],
    "DarkNet": ["darknet53"],
    "EdgeNeXt": ["edgenext_xx_small"],
    "FastViT": ["fastvit_t8"],
    "MobileViT": ["mobilevit_xxs", "mobilevitv2_050"],
    "MobileOne": ["mobileone_s0"],
    "ViT": ["vit_tiny_patch16_224", "vit_small_patch16_224"],
    "DeiT": ["deit_tiny_patch16_224"],
    "Swin": ["swin_tiny_patch4_window7_224"],
    "PoolFormer": ["poolformer_s12"],
    "LCNet": ["lcnet_100"],
    "TinyNet": ["tinynet_a"],
    "HardCoRe-NAS": ["hardcorenas_a"],
    "RexNet": ["rexnet_100"],
    "SelecSLS": ["selecsls42b"],
    "VoVNet": ["ese_vovnet19b_dw"],
    "MixNet": ["mixnet_s"],
    "StarNet": ["starnet_s1"],
}


def main() -> int:
    parser = common.parser(__doc__, jobs=2)
    parser.add_argument("names", nargs="*", help="timm models; default: the whole zoo")
    parser.add_argument("--fraction", type=float, default=0.5, help="fraction of the FLOPs to keep; default: 0.5")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/zoo.jsonl"), help="file of the rows")
    parser.add_argument("--one", action="store_true", help="prune the single NAME in this process and print its row")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(prune(options.names[0], options.fraction)))
        return 0
    zoo = {name: family for family, names in ZOO.items() for name in names}
    names = options.names or list(zoo)
    rows = {row["name"]: row for row in _read(options.out)}
    waiting = [name for name in names if name not in rows]
    with ThreadPoolExecutor(options.jobs) as pool:
        for row in pool.map(lambda name: in_own_process(name, options.fraction), waiting):
            row["family"] = zoo.get(row["name"], "")
            rows[row["name"]] = row
            atomic.write(options.out, "".join(json.dumps(entry) + "\n" for entry in rows.values()))
            print(line(row), flush=True)
    requested = [rows[name] for name in names]
    succeeded = [row for row in requested if row["error"] is None]
    families = len({row["family"] for row in succeeded})
    counts = f"{len(succeeded)} of {len(requested)} architectures, from {families} families"
    print(f"{counts}, at {options.fraction:.0%} of their FLOPs")
    for row in requested:
        if row["error"] is not None:
            print(f"  {row['name']}: {row['error']}")
    return 0 if len(succeeded) >= GOAL * len(requested) else 1


def in_own_process(name: str, fraction: float) -> dict[str, Any]:
    """Calls `prune` in a fresh interpreter; a crash or a timeout becomes the row's error."""
    try:
        output = common.in_own_process(__file__, [name, "--one", "--fraction", str(fraction)], seconds=SECONDS)
    except RuntimeError as error:
        return {"name": name, "error": f"crash or timeout: {error}"}
    return json.loads(output.splitlines()[-1])


def prune(name: str, fraction: float) -> dict[str, Any]:
    """Prunes one model. Returns its FLOPs, difference from ONNX Runtime and seconds of the solver, or the error."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.disable(logging.WARNING)
    row: dict[str, Any] = {"name": name, "error": None}
    try:
        built = build(ModelConfig(family=Family.timm, name=name, imgsz=IMGSZ))
        model = require(built, Prunable, "NAME", name)
        net, protected = model.prunable()
        example = model.example_input()

        count = counter(model)
        full = count(net)
        start = time.time()
        # Magnitudes need no data. They are meaningless for random weights, but accuracy is not measured here.
        config = PruneConfig(importance="group_l2", allocation="uniform", round_to=8)
        pruned = prune_to_flops(net, example, protected, config, budget_macs=fraction * full, count=count)
        row |= {
            "seconds": round(time.time() - start, 1),
            "gflops": 2 * full / 1e9,
            "fraction": count(pruned.net) / full,
        }
        small = model.with_net(pruned.net)
        sample = {"img": model.example_input(2), "cls": torch.tensor([0, 1])}
        require(small, Trainable, "NAME", name).loss(small.net.train(), sample).backward()
        row["onnx_difference"] = difference(small)
    except (UserError, TargetFailed) as error:
        return row | {"error": str(error)}
    if not fraction - TOLERANCE <= row["fraction"] <= fraction:
        return row | {
            "error": f"{row['fraction']:.1%} of the FLOPs: the pruning steps are too coarse for {fraction:.0%}"
        }
    if not row["onnx_difference"] <= AGREEMENT:  # NaN too
        return row | {"error": f"ONNX Runtime differs from torch by {row['onnx_difference']:.2g} of the largest output"}
    return row


def difference(model: Any) -> float:
    """Largest difference of ONNX Runtime's output from torch's, relative to the largest output."""
    image = model.example_input()
    with torch.inference_mode():
        expected = model.deployed()(image).numpy()
    with TemporaryDirectory() as scratch:
        graph = targets.get("onnxruntime").convert(model, Path(scratch), ExportConfig())
        actual = first(targets.load(graph, threads=1)(image.numpy()))
    return common.difference(actual, expected)


def line(row: dict[str, Any]) -> str:
    if row["error"] is not None:
        return f"{row['name']:32} FAILED  {row['error']}"
    return (
        f"{row['name']:32} {row['gflops']:7.2f} G  {row['fraction']:6.1%}  {row['seconds']:6.1f} s"
        f"  ONNX {row['onnx_difference']:.1e}"
    )


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()] if path.is_file() else []


if __name__ == "__main__":
    sys.exit(common.run(main))
