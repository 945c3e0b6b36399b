"""The script of the microbenchmark, in ONNX Runtime."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from compress.devices import microbenchmark
from compress.targets import artifact


def test_its_result_is_read_by_this_program(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"target": "onnxruntime"}))
    for name in artifact.MICROBENCHMARK:
        shutil.copyfile(artifact.KIT / name, tmp_path / name)
    shutil.copyfile(artifact.KIT / "runtime_onnxruntime.py", tmp_path / "runtime.py")
    short = (tmp_path / "microbenchmark.py").read_text().replace("SECONDS = 0.2", "SECONDS = 0.0")
    (tmp_path / "microbenchmark.py").write_text(short)
    command = [sys.executable, "microbenchmark.py", "--device", "mine", "--threads", "1", "--seconds", "1"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    read = microbenchmark.read(tmp_path / "microbenchmark.json")
    assert (read.device, read.runtime, read.threads) == ("mine", "onnxruntime", 1)
