"""Opens the engine in TensorRT if build.sh has built model.plan, else the shipped model.engine in TensorRT-RTX.

Device memory is managed through the CUDA runtime library, so that Python needs only TensorRT and numpy.
"""

import ctypes
import pathlib

import numpy as np


def load(path: pathlib.Path, threads: "int | None") -> tuple:
    """Returns (predict: array -> array, or a tuple of several outputs, runtime name, inference precision)."""
    plan = path.with_name("model.plan")
    if plan.exists():
        import tensorrt as trt
    else:
        import tensorrt_rtx as trt

        plan = path.with_name("model.engine")
    engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise SystemExit(f"{plan.name} was built for another GPU or TensorRT version: run build.sh")
    context = engine.create_execution_context()
    cuda = cuda_runtime()
    inputs: list = []
    outputs: list = []
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    for name in sorted(names, key=lambda name: (len(name), name)):  # output0, output1, …
        host = np.zeros(tuple(engine.get_tensor_shape(name)), np.float32)
        pointer = ctypes.c_void_p()
        check(cuda.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(host.nbytes)))
        context.set_tensor_address(name, pointer.value)
        buffers = inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs
        buffers.append((host, pointer))
    stream = ctypes.c_void_p()
    check(cuda.cudaStreamCreate(ctypes.byref(stream)))
    source, source_pointer = inputs[0]
    to_device, to_host = 1, 2  # cudaMemcpyKind

    def predict(image: np.ndarray) -> "np.ndarray | tuple":
        source[...] = image
        copy(cuda, source_pointer, source.ctypes.data_as(ctypes.c_void_p), source.nbytes, to_device)
        if not context.execute_async_v3(stream.value):
            raise SystemExit("TensorRT cannot run the engine")
        check(cuda.cudaStreamSynchronize(stream))
        for host, pointer in outputs:
            copy(cuda, host.ctypes.data_as(ctypes.c_void_p), pointer, host.nbytes, to_host)
        copies = [host.copy() for host, _ in outputs]
        return copies[0] if len(copies) == 1 else tuple(copies)

    precision = "int8" if path.parent.name == "int8" else "f16"
    return predict, f"{trt.__name__} {trt.__version__}", precision


def cuda_runtime() -> ctypes.CDLL:
    """Loads the CUDA runtime library. Exits if there is none."""
    for name in ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "cudart64_13.dll"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise SystemExit("the CUDA runtime library (libcudart) was not found: install CUDA, or add it to the library path")


def copy(cuda: ctypes.CDLL, to: ctypes.c_void_p, source: ctypes.c_void_p, size: int, kind: int) -> None:
    check(cuda.cudaMemcpy(to, source, ctypes.c_size_t(size), ctypes.c_int(kind)))


def check(status: int) -> None:
    if status != 0:
        raise SystemExit(f"CUDA error {status}")
