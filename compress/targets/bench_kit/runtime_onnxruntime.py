"""Opens the model in ONNX Runtime on the CPU."""

import os
import pathlib

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # otherwise the import sends usage reports

import numpy as np
import onnxruntime


def load(path: pathlib.Path, threads: "int | None") -> tuple:
    """Returns (predict: array -> array, or a tuple of several outputs, runtime name, inference precision)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    # Rounds denormals (below 1e-38) to 0: they are many times slower, and frequent in the attention of some detectors.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    precision = "int8" if path.parent.name.startswith("int8") else "f32"

    def predict(image: np.ndarray) -> "np.ndarray | tuple":
        outputs = session.run(None, {name: image})
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return predict, f"onnxruntime {onnxruntime.__version__}", precision
