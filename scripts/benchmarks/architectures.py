"""The 100 architectures whose products `counters.py` counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SIDE = 224  # pixels, unless a network has a fixed size of its own
DETECTOR_SIDE = 320

TIMM = """
    resnet18 resnet26d resnext50_32x4d seresnet50 ecaresnet26t skresnet18 resnest14d res2net50_26w_4s resnetv2_50
    nf_resnet26 regnetx_002 regnety_004 densenet121 dla34 hrnet_w18_small vgg11_bn inception_v3 inception_next_atto
    xception41 cspresnet50 darknet53 dpn48b selecsls42b gernet_s repvgg_a0 ghostnetv2_100 mobilenetv1_100
    mobilenetv2_050 mobilenetv3_small_100 mobilenetv4_conv_small mobilenetv4_hybrid_medium mobileone_s0
    mnasnet_small efficientnet_b0 mixnet_s tinynet_e lcnet_050 starnet_s1 ese_vovnet19b_dw fasternet_t0
    convnext_atto convnextv2_atto hgnetv2_b0 repvit_m0_9 shvit_s1 mambaout_femto focalnet_tiny_srf poolformer_s12
    caformer_s18 convformer_s18 mixer_s32_224 gmlp_ti16_224 resmlp_12_224 vit_tiny_patch16_224 cait_xxs24_224
    xcit_nano_12_p16_224 gcvit_xxtiny swin_tiny_patch4_window7_224 swinv2_cr_tiny_ns_224 twins_svt_small pvt_v2_b0
    mvitv2_tiny maxvit_rmlp_pico_rw_256 coatnet_nano_rw_224 crossvit_tiny_240 convit_tiny levit_128s
    efficientformer_l1 efficientformerv2_s0 efficientvit_b0 efficientvit_m0 edgenext_xx_small fastvit_t8
    mobilevit_xxs mobilevitv2_050 tiny_vit_5m_224 davit_tiny pit_ti_224 tnt_s_patch16_224 visformer_tiny
    coat_lite_tiny sequencer2d_s gcresnext26ts lambda_resnet26t botnet26t_256
""".split()
TORCHVISION = "shufflenet_v2_x0_5 squeezenet1_1 googlenet vit_b_32 swin_v2_t".split()
SEGMENTATION = "deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large".split()
DETECTION = (
    "ssdlite320_mobilenet_v3_large retinanet_resnet50_fpn fcos_resnet50_fpn fasterrcnn_mobilenet_v3_large_320_fpn"
)


class Detector(nn.Module):
    """A detector of torchvision without the selection of boxes, whose shapes depend on the data: backbone and heads."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.backbone = net.backbone
        self.head = net.rpn.head if hasattr(net, "rpn") else net.head

    def forward(self, image: Tensor) -> Any:
        features = list(self.backbone(image).values())
        return self.head(features)


class Recurrent(nn.Module):
    """A recurrent network over the rows of an image; `kind` is LSTM, GRU, RNN, or a cell."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(3 * 32, 64, **options)
        self.fc = nn.Linear(64 * (2 if options.get("bidirectional") else 1), 10)

    def forward(self, image: Tensor) -> Tensor:
        rows = image.permute(2, 0, 1, 3).flatten(2)
        if isinstance(self.rnn, nn.RNNCellBase):
            state: Any = None
            for row in rows:
                state = self.rnn(row, state)
            return self.fc(state[0] if isinstance(self.rnn, nn.LSTMCell) else state)
        return self.fc(self.rnn(rows)[0][-1])


RECURRENT: dict[str, dict[str, Any]] = {
    "LSTM": {"num_layers": 2, "bidirectional": True},
    "GRU": {"num_layers": 2},
    "RNN": {},
    "LSTMCell": {},
}
NAMES = [
    *(f"timm/{name}" for name in TIMM),
    *(f"torchvision/{name}" for name in (*TORCHVISION, *SEGMENTATION, *DETECTION.split())),
    *(f"recurrent/{name}" for name in RECURRENT),
]


def build(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network of NAMES with random weights, in evaluation mode, and its input: one image."""
    family, _, kind = name.partition("/")
    if family == "recurrent":
        return Recurrent(kind, **RECURRENT[kind]).eval(), (torch.rand(1, 3, 32, 32),)
    if family == "timm":
        import timm

        net: Any = timm.create_model(kind, pretrained=False).eval()
        config = net.pretrained_cfg
        side = config["input_size"][-1] if config.get("fixed_input_size") else min(SIDE, config["input_size"][-1])
        return net, (torch.rand(1, 3, side, side),)
    import torchvision.models as zoo

    if kind in SEGMENTATION:
        return zoo.get_model(kind, weights=None, weights_backbone=None).eval(), (torch.rand(1, 3, SIDE, SIDE),)
    if kind in DETECTION.split():
        net = Detector(zoo.get_model(kind, weights=None, weights_backbone=None)).eval()
        return net, (torch.rand(1, 3, DETECTOR_SIDE, DETECTOR_SIDE),)
    options = {"init_weights": False, "aux_logits": False} if kind == "googlenet" else {}
    return zoo.get_model(kind, weights=None, **options).eval(), (torch.rand(1, 3, SIDE, SIDE),)
