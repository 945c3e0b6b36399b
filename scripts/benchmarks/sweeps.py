"""Sweeps: what the cache and two processes gain, and whether the accuracy right after pruning predicts that after
fine-tuning.

    python scripts/benchmarks/sweeps.py sharing   # on an idle machine
    python scripts/benchmarks/sweeps.py speed     # on an idle machine with at least 2 CPUs
    python scripts/benchmarks/sweeps.py early     # --folder FOLDER continues or reads an earlier sweep

`sharing` runs recipe=digits for six pruning ratios as a sweep, and as six runs without a common cache. The sweep trains
the network once. Goal: at most the time of the six runs minus 0.9 of five times the training.

`speed` runs the same points (recipe=digits, one for each of --seeds, an even number) three times: in turn with two
threads, in turn with one, and by two joblib workers of one thread. The time is that in which at least one stage was
being computed, from the cache entries of each run: measurements are excluded. Goal: workers need at most 0.75 of the
time of one process with two threads, with the accuracies of one thread, and latencies that differ by noise only.

`early` prunes the digits network by six importances to two budgets and fine-tunes it for two durations. Goal of the
rank correlation of both accuracies at equal budget and duration, where a search must decide: an interval of 95 % above
0.5. Otherwise a search that stops points by their accuracy after pruning would stop good ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import common
import numpy as np
from scipy.stats import spearmanr

from compress import ledger, timing_noise
from compress.report.run_reader import read_config

SHARED_GOAL, SPEED_GOAL, CORRELATION_GOAL = 0.9, 0.75, 0.5
RESAMPLES = 5000
MEASURING = ("measure", "layers", "settings")  # cache entries of measurements, which wait for each other
RATIOS = ("0.1", "0.2", "0.3", "0.4", "0.5", "0.6")
POINTS = ["recipe=digits", "budget.flops=30%"]
SHAPE = ["recipe=digits", "stages=[train,prune,finetune]", "targets=[]", "threads=1"]
IMPORTANCES = "group_l2,taylor,bn_scale,lamp,fpgm,random"
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def sweep(place: Path, words: Sequence[str]) -> None:
    """Runs a sweep with `place` as working directory, so that it has a cache of its own. Raises RuntimeError."""
    place.mkdir(parents=True, exist_ok=True)
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "compress", *words, "-m"]
    with open(place / "log", "a") as log:
        done = subprocess.run(command, cwd=place, env={**os.environ, "PYTHONPATH": root}, stdout=log, stderr=log)
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: see {place / 'log'}")


def busy_seconds(place: Path) -> float:
    """Time in which at least one stage was being computed."""
    spans = []
    for file in place.glob("outputs/.cache/*/entry.json"):
        end, entry = file.stat().st_mtime, json.loads(file.read_text())
        if entry["stage"] not in MEASURING:
            spans.append((end - entry["seconds"], end))
    total = reached = 0.0
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def points(place: Path) -> dict[str, list[ledger.Row]]:
    """The rows of each point, by the value of its seed."""
    files = place.glob("outputs/sweeps/*/*/*/ledger.jsonl")
    return {str(read_config(file.with_name("config.yaml"))[0]["seed"]): ledger.read(file) for file in files}


def sharing() -> bool:
    """Prints both times; returns whether the goal is met."""
    words = ["recipe=digits", "budget.flops=null", "budget.max_accuracy_drop=null"]
    with tempfile.TemporaryDirectory() as scratch:
        separate = [timed(Path(scratch, ratio), [*words, f"prune.ratio={ratio}"]) for ratio in RATIOS]
        training = [stage_seconds(Path(scratch, ratio), "train") for ratio in RATIOS]
        together = timed(Path(scratch, "sweep"), [*words, f"prune.ratio={','.join(RATIOS)}"])
    limit = sum(separate) - SHARED_GOAL * (len(RATIOS) - 1) * float(np.mean(training))
    print(
        f"{len(RATIOS)} runs {sum(separate):.1f} s, each trains for {np.mean(training):.1f} s; sweep {together:.1f} s"
    )
    print(f"{common.met(together <= limit)}: at most {limit:.1f} s")
    return together <= limit


def timed(place: Path, words: Sequence[str]) -> float:
    """Seconds of a sweep, also of one point."""
    begin = time.monotonic()
    sweep(place, words)
    return time.monotonic() - begin


def stage_seconds(place: Path, stage: str) -> float:
    """Seconds that were spent on the cache entries of a stage."""
    entries = [json.loads(file.read_text()) for file in place.glob(f"outputs/.cache/{stage}-*/entry.json")]
    return sum(entry["seconds"] for entry in entries)


def speed(seeds: int) -> bool:
    """Prints the three arrangements; returns whether all goals are met."""
    seed = "seed=" + ",".join(map(str, range(seeds)))
    with tempfile.TemporaryDirectory() as scratch:
        places = {name: Path(scratch, name) for name in ("two threads", "one thread", "two workers")}
        for place, words in zip(places.values(), (["threads=2"], ["threads=1"], ["threads=1", *JOBLIB])):
            sweep(place, [*POINTS, seed, *words])
        seconds = {name: busy_seconds(place) for name, place in places.items()}
        rows = {name: points(place) for name, place in places.items()}
    ratio = seconds["two workers"] / seconds["two threads"]
    print("; ".join(f"{name} {value:.1f} s" for name, value in seconds.items()))
    print(f"two workers / two threads: {ratio:.2f} ({common.met(ratio <= SPEED_GOAL)}: at most {SPEED_GOAL})")
    agreements = []
    for other in ("one thread", "two threads"):
        pairs = [
            (a, b) for name, each in rows[other].items() for a, b in zip(each, rows["two workers"][name], strict=True)
        ]
        same = sum(a.accuracy == b.accuracy for a, b in pairs)
        print(f"accuracies equal to those of {other}: {same} of {len(pairs)} rows")
        if other == "one thread":
            agreements.append(same == len(pairs))
            timed = [(a.latency_ms, b.latency_ms) for a, b in pairs if a.latency_ms and b.latency_ms]
            ratios = [b.median / a.median for a, b in timed if a.median and b.median]
            near = float(np.median(ratios))
            print(f"latencies / those of one thread: median {near:.3f}, {min(ratios):.3f} to {max(ratios):.3f}")
            different = [timing_noise.differ(a, b) for a, b in timed]
            print(f"rows whose latencies differ by more than noise: {different.count(True)} of {len(different)}, "
                  f"{different.count(None)} contended")  # fmt: skip
            agreements.append(different.count(False) == len(different))
    return ratio <= SPEED_GOAL and all(agreements)


def interval(cells: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Mean over cells of Spearman's rank correlation of the two columns, and its 95 % bootstrap interval. Cells in
    which a column is constant are left out."""
    random = np.random.default_rng(0)

    def mean(drawn: Sequence[np.ndarray]) -> float:
        usable = [cell for cell in drawn if np.ptp(cell[:, 0]) and np.ptp(cell[:, 1])]
        return float(np.mean([spearmanr(cell[:, 0], cell[:, 1]).statistic for cell in usable])) if usable else np.nan

    draws = [mean([cell[random.integers(len(cell), size=len(cell))] for cell in cells]) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return mean(cells), float(low), float(high)


def early(folder: Path, seeds: int, run: bool) -> bool:
    """Prints the correlations; returns whether the accuracy after pruning predicts that after fine-tuning."""
    if run:
        words = [f"seed={','.join(map(str, range(seeds)))}", "budget.flops=18%,30%", f"prune.importance={IMPORTANCES}"]
        target = f"hydra.sweep.dir='{folder.absolute()}'"
        sweep(
            folder.parent, [*SHAPE, *words, "finetune.images=8000,2000", target, "hydra.sweep.subdir=${hydra.job.num}"]
        )
    cells: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
    for file in folder.glob("*/verdict.json"):
        config = read_config(file.with_name("config.yaml"))[0]
        key = (str(config["budget"]["flops"]), str(config["finetune"]["images"]), str(config["seed"]))
        values = {row.stage: row.accuracy.value for row in ledger.read(file.with_name("ledger.jsonl")) if row.accuracy}
        cells[key].append((values["prune"], values["finetune"]))
    arrays = {key: np.array(cell) for key, cell in sorted(cells.items()) if len(cell) > 2}
    everything = np.concatenate(list(arrays.values()))
    print(f"{len(everything)} points; after fine-tuning {everything[:, 1].min():.3f} to {everything[:, 1].max():.3f}")
    print("all points: {:.2f} ({:.2f} to {:.2f})".format(*interval([everything])))
    value, low, high = interval(list(arrays.values()))
    print(f"same budget, duration and seed: {value:.2f} ({low:.2f} to {high:.2f})")
    for position, name in enumerate(("budget", "duration")):
        for level in sorted({key[position] for key in arrays}):
            part = [cell for key, cell in arrays.items() if key[position] == level]
            print("  {} {}: {:.2f} ({:.2f} to {:.2f})".format(name, level, *interval(part)))
    halves = [(cell, cell[np.argsort(-cell[:, 0])[: len(cell) // 2], 1].max()) for cell in arrays.values()]
    drawn = [(cell, max(half)) for cell in arrays.values() for half in combinations(cell[:, 1], len(cell) // 2)]
    for name, kept in (("the worse half after pruning", halves), ("a random half", drawn)):
        lost = np.array([cell[:, 1].max() - best for cell, best in kept])
        print(f"stopping {name} keeps a best point in {np.mean(lost == 0):.0%} of groups; "
              f"it loses {lost.mean():.4f} accuracy on average, {lost.max():.4f} at most")  # fmt: skip
    print(f"predicts: {common.met(low > CORRELATION_GOAL)} (interval above {CORRELATION_GOAL})")
    return low > CORRELATION_GOAL


def main() -> int:
    parser = common.parser(__doc__, seeds=3)
    parser.add_argument("what", choices=["sharing", "speed", "early"])
    parser.add_argument("--folder", type=Path, default=Path("outputs/early_pruning/sweep"), help="of `early`")
    parser.add_argument("--read", action="store_true", help="`early`: only read the folder")
    options = parser.parse_args()
    if options.what == "early":
        good = early(options.folder, options.seeds, not options.read)
    else:
        good = sharing() if options.what == "sharing" else speed(options.seeds)
    return 0 if good else 3


if __name__ == "__main__":
    sys.exit(common.run(main))
