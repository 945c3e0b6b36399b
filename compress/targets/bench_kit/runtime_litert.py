"""Opens the model in LiteRT on the CPU, or in its predecessor tflite-runtime if LiteRT is not installed."""

import importlib.metadata
import pathlib

import numpy as np

try:
    from ai_edge_litert.interpreter import Interpreter

    PACKAGE = "ai-edge-litert"
except ImportError:
    from tflite_runtime.interpreter import Interpreter

    PACKAGE = "tflite-runtime"


def load(path: pathlib.Path, threads: "int | None") -> tuple:
    """Returns (predict: array -> array, or a tuple of several outputs, runtime name, inference precision)."""
    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    sinks = [output["index"] for output in interpreter.get_output_details()]

    def predict(image: np.ndarray) -> "np.ndarray | tuple":
        interpreter.set_tensor(source, image)
        interpreter.invoke()
        outputs = [interpreter.get_tensor(sink) for sink in sinks]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    precision = "int8" if path.parent.name == "int8" else "f32"
    return predict, f"{PACKAGE} {importlib.metadata.version(PACKAGE)}", precision
