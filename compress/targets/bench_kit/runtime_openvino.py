"""Opens the model in OpenVINO on the CPU, in the precision that OpenVINO selects (BF16 if the CPU has AMX)."""

import os
import pathlib
import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # no event is sent on import

import numpy as np  # noqa: E402
import openvino  # noqa: E402


def load(path: pathlib.Path, threads: "int | None") -> tuple:
    """Returns (predict: array -> array, or a tuple of several outputs, runtime name, inference precision)."""
    settings: dict = {"PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()
    if limit in ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"):
        settings["INFERENCE_PRECISION_HINT"] = "f32"  # OpenVINO would select bfloat16 all the same, and fail
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    float_precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    precision = "int8" if path.parent.name.startswith("int8") else float_precision

    def predict(image: np.ndarray) -> "np.ndarray | tuple":
        result = compiled(image)
        outputs = [result[index].copy() for index in range(len(compiled.outputs))]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return predict, f"openvino {openvino.__version__}", precision
