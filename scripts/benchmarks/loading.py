"""Measures how many training images a second are decoded, augmented and collated, by number of worker processes.

    python scripts/benchmarks/loading.py [--workers 0 1 2 4] [--side 256] [--imgsz 256] [--batch 16] [--rounds 5]

Nothing is trained. Images are scenes rendered as JPEG files of --side pixels, with boxes; 0 workers is the background
thread. The numbers of workers are measured in turns, --seconds each, without the batches made before a turn starts.
The CPU time includes that of the workers.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

import common

from compress.data import Sample, Split, TrainingBatches
from compress.data.labels import read_labels
from compress.data.streams import AHEAD, Stream
from compress.examples.field_scenes.files import write_split
from compress.examples.field_scenes.scene import CLASSES
from compress.host import host
from compress.tasks import DETECT
from compress.tasks.augmentation import AERIAL

GOAL = 400  # images per second with 2 workers, of 256 px


def main() -> int:
    parser = common.parser(__doc__, side=256, imgsz=256, images=512, batch=16, rounds=5, seconds=4)
    cpus = host().threads
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, *([cpus] if cpus > 2 else [])])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        split = scenes(Path(folder), options.images, options.side, options.imgsz)
        streams = {}
        for workers in options.workers:
            source = TrainingBatches(split, batch=options.batch, seed=0, augment=True, workers=workers)
            streams[workers] = stack.enter_context(closing(source.start(0)))
        speeds: dict[int, list[float]] = {workers: [] for workers in streams}
        costs: dict[int, list[float]] = {workers: [] for workers in streams}
        for _ in range(options.rounds):
            for workers, stream in streams.items():
                speed, cost = measure(stream, workers, options.seconds)
                speeds[workers].append(speed)
                costs[workers].append(cost)
    print(f"{host().cpu}, {cpus} CPUs, load {os.getloadavg()[0]:.1f}; JPEG {options.side} px -> {options.imgsz} px")
    print("workers  images/s: median (each round)  CPU ms per image")
    for workers, values in speeds.items():
        each = ", ".join(f"{value:.0f}" for value in values)
        print(f"{workers:7}  {statistics.median(values):7.0f} ({each})  {statistics.median(costs[workers]):.2f}")
    if options.imgsz == 256 and 2 in speeds:
        print(f"goal of {GOAL} images/s with 2 workers: {common.met(statistics.median(speeds[2]) >= GOAL)}")
    return 0


def scenes(folder: Path, images: int, side: int, imgsz: int) -> Split:
    write_split(folder, "train", images, side)
    samples = []
    for file in sorted((folder / "images" / "train").iterdir()):
        (label,) = read_labels([str(folder / "labels" / "train" / f"{file.stem}.txt")], len(CLASSES))
        samples.append(Sample(file, label, (side, side)))
    return Split("train", samples, imgsz, 3, DETECT, AERIAL)


def measure(stream: Stream, workers: int, seconds: int) -> tuple[float, float]:
    """Images per second, and CPU milliseconds per image."""
    for _ in range((AHEAD + 1) * max(1, workers)):
        next(stream)
    start, cpu, count = time.perf_counter(), cpu_seconds(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        count += len(next(stream)["img"])
    return count / elapsed, 1000 * (cpu_seconds() - cpu) / count


def cpu_seconds() -> float:
    """CPU time of this process and of its workers, which outside of a turn use none."""
    total = time.process_time()
    for worker in multiprocessing.active_children():
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


if __name__ == "__main__":
    sys.exit(common.run(main))
