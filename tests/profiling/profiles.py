"""A profile made by hand, for tests of tables and plots."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from compress.devices.operators import Operator
from compress.measurement.cost import Cost
from compress.measurement.roofline import Roofline
from compress.profiling.profile import Counted, Layer, Profile, Speed
from compress.profiling.subject import Subject

ROOF = Roofline({"f32": 100.0, "int8": 400.0}, 10.0, 2)
LAYERS = (
    Layer("stem.conv", "Conv", (1, 16, 32, 32), 4_000_000, 16384, 448, 100_000, 0.5, 0.5, 0.8),
    Layer("stem.act", "Sigmoid, Mul", (1, 16, 32, 32), 0, 81920, 0, 131072, 0.3, 0.3, 0.0),
    Layer("head.<b>", "Gemm", (1, 10), 1_000_000, 10, 1010, 5000, 0.0, 0.0, 0.2),
    Layer("", "changes of memory layout", (), 0, 0, 0, 0, 0.2, 0.2, 0.0),
)
OPERATORS = (Operator(5_000_000, 30_000, 1458, 16, False), Operator(0, 20_000, 0, 0, True))
SPEED = Speed("onnxruntime 1.31", "f32", 1.25, 1.5, False, 8.0, 0.08, 0.1)
PROFILE = Profile(
    "net",
    32,
    12,
    1500,
    1500,
    1458,
    5_000_000,
    98314,
    236_072,
    65536,
    49152,
    7000,
    (SPEED,),
    {"openvino": "no Gemm"},
    OPERATORS,
    LAYERS,
    {"activation": 80_000, "bias": 18_314},
    5_000_000 * 1024,
)

COUNTED = Counted(
    "net", Subject(32, np.zeros((1, 3, 32, 32), np.float32), ModelProto(), 7000, {}, None),
    Cost(5_000_000, 1458, 4 * 1458, 236_072, 65536, 49152, {}), OPERATORS, quantized=False,
)  # fmt: skip
