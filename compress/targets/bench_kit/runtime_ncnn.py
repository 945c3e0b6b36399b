"""Opens the model in ncnn on the CPU: FP32 files in float32, FP16 files in float16 if the CPU supports it (ARMv8.2)."""

import pathlib

import ncnn
import numpy as np


def load(path: pathlib.Path, threads: "int | None") -> tuple:
    """Returns (predict: array -> array, or a tuple of several outputs, runtime name, inference precision)."""
    half = path.parent.name.startswith("fp16") and ncnn.cpu_support_arm_asimdhp()
    net = ncnn.Net()
    if threads:
        net.opt.num_threads = threads
    net.opt.use_vulkan_compute = net.opt.use_bf16_storage = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = half
    if net.load_param(str(path)) != 0 or net.load_model(str(path.with_suffix(".bin"))) != 0:
        raise SystemExit(f"ncnn cannot open {path}")

    def predict(image: np.ndarray) -> "np.ndarray | tuple":
        outputs = []
        with net.create_extractor() as extractor:  # ncnn.Mat has no batch axis
            # A copy: a first layer that computes in place ends the process on memory that ncnn does not own.
            extractor.input("in0", ncnn.Mat(image[0]).clone())
            for index in range(len(net.output_names())):
                status, output = extractor.extract(f"out{index}")
                if status != 0:
                    raise SystemExit(f"ncnn cannot run the model: status {status}")
                outputs.append(np.array(output)[None])
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return predict, f"ncnn {ncnn.__version__}", "f16" if half else "f32"
