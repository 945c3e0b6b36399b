"""Images of five bands and 12 bits, from TIFF files to an INT8 model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

import compress


def test_images_of_five_bands_and_12_bits_go_through_the_whole_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classes differ by the band that is brighter, only in the lower byte of the files' 16 bits."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split, count in (("train", 192), ("val", 40)):
        for index in range(count):
            image = rng.integers(0, 100, (16, 16, 5), np.uint16)
            image[:, :, 1 + 2 * (index % 2)] += 100
            folder = tmp_path / "bands" / split / ("second", "fourth")[index % 2]
            folder.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / f"{index}.tif", image, photometric="minisblack", planarconfig="contig")
    words = [
        "recipe=custom", "model=module", "model.target=compress.examples.small_cnn.SmallCNN", "model.imgsz=16",
        "model.channels=5", "+model.args.classes=2", "+model.args.channels=5", "data=image_folder", "data.path=bands",
        "data.calibration_images=32", "stages=[train,prune,quantize,export]", "targets=[onnxruntime]", "threads=1",
        "budget.flops=80%", "prune.round_to=8", "model.mean=[0.0012]", "model.std=[0.0008]",
        "train.images=2880", "train.batch=16", "train.learning_rate=0.01",
    ]  # fmt: skip
    result = compress.run(compress.compose(words), Path("run"))
    accuracy = {(row.stage, row.precision): row.accuracy for row in result.rows}["export", "int8"]
    assert accuracy is not None and accuracy.value > 0.9
    manifest = json.loads(Path("run/artifacts/onnxruntime/manifest.json").read_text())
    assert manifest["inputs"][0]["shape"] == [1, 5, 16, 16]
    assert manifest["preprocessing"]["colour"] == "5 channels" and "65535" in manifest["preprocessing"]["range"]
    with np.load("run/artifacts/onnxruntime/labelled_images.npz", allow_pickle=False) as labelled:
        assert labelled["images"].dtype == np.float32 and 0 < labelled["images"].max() < 1  # of 255
