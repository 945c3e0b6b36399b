"""Latency of everything that happens to one image: on small networks much of it is outside of the network."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from compress.host import without_garbage_collection
from compress.ledger import EndToEnd
from compress.measurement.accuracy import Predict, Split
from compress.measurement.latency import timing_lock
from compress.tasks import Outputs

IMAGES = 40
WARM_UP = 5


def time_images(predict: Predict, decode: Callable[[Outputs], Any], split: Split, *, wait: bool = True) -> EndToEnd:
    """Times the first `IMAGES` images of a split one by one, after `WARM_UP` untimed ones: reading, decoding, resizing
    and scaling of the image, inference, and decoding of the outputs into predictions. Waits as `latency.time_call`."""
    count, rows = min(IMAGES, len(split)), []
    with timing_lock(wait=wait), without_garbage_collection():
        for index in (*range(min(WARM_UP, count)), *range(count)):
            start = time.perf_counter_ns()
            planes = np.ascontiguousarray(split.image(index)[None].transpose(0, 3, 1, 2))
            image = np.divide(planes, 255, dtype=np.float32)
            prepared = time.perf_counter_ns()
            outputs = predict(image)
            inferred = time.perf_counter_ns()
            decode(outputs)
            rows.append((prepared - start, inferred - prepared, time.perf_counter_ns() - inferred))
    parts = np.array(rows[-count:]) / 1e6
    total = parts.sum(axis=1)
    prepare, inference, decoding = np.median(parts, axis=0)
    return EndToEnd(
        median=float(np.median(total)), p95=float(np.percentile(total, 95)), prepare=float(prepare),
        inference=float(inference), decode=float(decoding), images=count,
    )  # fmt: skip
