"""Kills runs, fills their disk and damages their cache, and compares the final numbers with those of undisturbed runs.

    python scripts/benchmarks/crash.py [--kills 100] [--full-disks 20] [--flips 50] [--folder FOLDER]

Each part, unless its number is 0, repeats short runs of the recipe digits, through all stages, until they finish:

- kills: three processes of different budgets share one cache. Each is killed (SIGKILL or SIGTERM) after a random time,
  and the same command is started again, until it finishes. Then all start from an empty cache again. After SIGTERM the
  exit status must be 130; `state.json` must tell that the run was interrupted, and in which stage.
- full disks: the outputs are on a file system of a random size, up to a little more than a run needs. A run either
  finishes, or ends with one line; then the file system grows and the same command finishes. Needs root on Linux.
- flips: a random bit of a random file of the cache is flipped, several per run; the run must compute it again.

Every finished run must have the numbers of the undisturbed one to the last digit: accuracies with their intervals,
FLOPs, sizes, channels, and the SHA-256 of the artifacts' model files. Latencies are not compared, and decide nothing:
one number format, one quantization scheme. Prints one line per event; the exit status is 1 if a run differs, ends with
a traceback, or cannot be continued, or if no kill hit some stage.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress import run_folder

ROOT = Path(__file__).parents[2]
RECIPE = [
    "recipe=digits", "stages=[train,prune,reconstruct,finetune,quantize,export]", "targets=[onnxruntime]", "threads=1",
    "train.images=3200", "finetune.images=1600", "force=true", "data.calibration_images=64",
    "data.validation_images=100", "quantize.search=false", "precision=32",
]  # fmt: skip
STAGES = ("train", "prune", "reconstruct", "finetune", "quantize", "export")
BUDGETS = ("budget.flops=50%", "budget.flops=40%", "budget.flops=30%")
MEASURED = ("latency_ms", "end_to_end_ms", "energy_mj", "roof_fraction", "achieved_gflops")  # differ between runs
UNSTABLE = (*MEASURED, "run_id", "cached")
FLIPS_PER_RUN = 5
SECONDS = 600  # time limit of one start
STOP_SECONDS = 60  # from a signal to the end of the process


@dataclass
class Count:
    """What happened, and what went wrong."""

    events: int = 0
    finished: int = 0
    wrong: list[str] = field(default_factory=list)

    def compare(self, what: str, numbers: Any, expected: Any) -> None:
        self.finished += 1
        if numbers != expected:
            self.wrong.append(f"{what}: other numbers than the undisturbed run")

    def check(self, process: subprocess.Popen[str], output: str) -> None:
        if "Traceback" in output:
            self.wrong.append(f"traceback, exit status {process.returncode}: {output[-2000:]}")


@dataclass
class Running:
    """A process, and after how many seconds it is killed."""

    process: subprocess.Popen[str]
    delay: float
    number: int = 1  # of its starts
    begun: float = field(default_factory=time.monotonic)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--full-disks", type=int, default=20)
    parser.add_argument("--flips", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="where runs are made; default: a temporary folder")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="crash-", dir=options.folder))
    expected, seconds, size = reference(folder / "reference")
    print(f"undisturbed: {', '.join(f'{each:.0f}' for each in seconds)} s, {size / 1e6:.1f} MB", flush=True)
    parts = []
    if options.kills:
        parts.append(("kills", kills(folder / "kills", options.kills, expected, max(seconds), chance)))
    if options.flips:
        parts.append(("flipped bits", flips(folder / "reference", options.flips, expected, chance)))
    if options.full_disks:
        parts.append(("full disks", full_disks(folder / "disk", options.full_disks, expected, size, chance)))
    for name, count in parts:
        print(f"{name}: {count.events} events, {count.finished} finished runs, {len(count.wrong)} wrong")
        for text in count.wrong:
            print(f"  {text}")
    shutil.rmtree(folder)
    return int(any(count.wrong for _, count in parts))


def start(folder: Path, budget: str) -> subprocess.Popen[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "compress", *RECIPE, budget], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def run_folders(folder: Path) -> dict[str, Path]:
    """{budget: the run's folder} of all runs below `folder`."""
    found = {}
    for file in sorted(folder.glob("outputs/digits/*/config.yaml")):
        for budget in BUDGETS:
            if f"flops: {budget.partition('=')[2]}" in file.read_text():
                found[budget] = file.parent
    return found


def numbers(run: Path) -> dict[str, Any]:
    """What must be the same in every run of one configuration."""
    rows = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    stable = [{name: value for name, value in row.items() if name not in UNSTABLE} for row in rows]
    verdict = json.loads((run / "verdict.json").read_text())
    checks = [(each["name"], each["precision"], each["value"]) for each in verdict["checks"]]
    manifest = json.loads((run / "artifacts" / "onnxruntime" / "manifest.json").read_text())
    files = {name: digest for name, digest in manifest["files"].items() if name.endswith("model.onnx")}
    records = [json.loads((run / f"{name}.json").read_text()) for name in ("pruning", "reconstruction")]
    return {"rows": stable, "checks": checks, "files": files, "records": records}


def reference(folder: Path) -> tuple[dict[str, Any], list[float], int]:
    """Numbers of undisturbed runs by budget, their seconds, and the bytes that both need."""
    expected, seconds = {}, []
    for budget in BUDGETS:  # the first trains, the others have its training from the cache
        begin = time.monotonic()
        process = start(folder, budget)
        output, _ = process.communicate(timeout=SECONDS)
        if process.returncode not in (0, 3):
            raise SystemExit(f"the undisturbed run failed: {output[-3000:]}")
        seconds.append(time.monotonic() - begin)
        expected[budget] = numbers(run_folders(folder)[budget])
    size = sum(path.stat().st_size for path in (folder / "outputs").rglob("*") if path.is_file())
    return expected, seconds, size


def kills(folder: Path, goal: int, expected: dict[str, Any], seconds: float, chance: random.Random) -> Count:
    """Processes on one cache, killed at random moments until all have finished; then anew."""
    count, stages, slowest = Count(), Counter[str](), 0.0
    while count.events < goal:
        shutil.rmtree(folder, ignore_errors=True)
        running = {budget: Running(start(folder, budget), chance.uniform(0, seconds)) for budget in BUDGETS}
        while running:
            time.sleep(0.02)
            for budget, each in list(running.items()):
                process, waited = each.process, time.monotonic() - each.begun
                if process.poll() is not None:
                    output = process.communicate()[0]
                    count.check(process, output)
                    del running[budget]
                    if process.returncode not in (0, 3):
                        count.wrong.append(f"exit status {process.returncode}: {output[-2000:]}")
                elif waited > each.delay:
                    stage, number = stage_of(folder, budget), chance.choice([signal.SIGKILL, signal.SIGTERM])
                    slowest = max(slowest, kill(folder, budget, each, number, count))
                    stages[stage] += 1
                    count.events += 1
                    print(f"{count.events}: {number.name} to {budget} in {stage}, after {waited:.1f} s", flush=True)
                    # Later starts live longer on average, so that every run ends.
                    longest = seconds * (1 + each.number / 4)
                    running[budget] = Running(start(folder, budget), chance.uniform(0, longest), each.number + 1)
        for budget, run in run_folders(folder).items():
            if "Traceback" in (run / "log.txt").read_text():
                count.wrong.append(f"traceback in {run / 'log.txt'}")
            if (status := run_folder.status(run)) == run_folder.FINISHED:
                count.compare(f"killed {budget}", numbers(run), expected[budget])
            else:
                count.wrong.append(f"{run} is {status}")
        damaged = subprocess.run(
            [sys.executable, "-m", "compress", "cache", "verify"], cwd=folder, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        if damaged.returncode:
            count.wrong.append(f"the cache is damaged: {damaged.stdout[-1000:]}")
        print(f"{count.finished} runs finished, {len(count.wrong)} wrong", flush=True)
    print(f"stages: {dict(stages)}; SIGTERM took at most {slowest:.1f} s", flush=True)
    if missed := [stage for stage in STAGES if not stages[stage]]:
        count.wrong.append(f"no kill in {', '.join(missed)}: set more --kills")
    return count


def kill(folder: Path, budget: str, running: Running, number: signal.Signals, count: Count) -> float:
    """Ends a process by a signal; returns how many seconds SIGTERM took. Notes a wrong exit status or state."""
    process, begin = running.process, time.monotonic()
    process.send_signal(number)
    try:
        output = process.communicate(timeout=STOP_SECONDS)[0]
    except subprocess.TimeoutExpired:
        count.wrong.append(f"still running {STOP_SECONDS} s after {number.name}")
        process.kill()
        output = process.communicate()[0]
    seconds = time.monotonic() - begin
    count.check(process, output)
    # -SIGTERM: before Python has started; 0 and 3: it had just finished.
    if number == signal.SIGTERM and process.returncode not in (130, -signal.SIGTERM, 0, 3):
        count.wrong.append(f"exit status {process.returncode} after SIGTERM: {output[-2000:]}")
    run = run_folders(folder).get(budget)
    if run and (status := run_folder.status(run)) not in (run_folder.INTERRUPTED, run_folder.FINISHED):
        count.wrong.append(f"{run} is {status} after {number.name}")
    return seconds if number == signal.SIGTERM else 0.0


def stage_of(folder: Path, budget: str) -> str:
    """The stage that a run has begun; `start` before it has a folder."""
    run = run_folders(folder).get(budget)
    return str(run_folder.read(run).get("stage", run_folder.FINISHED)) if run else "start"


def flips(folder: Path, goal: int, expected: dict[str, Any], chance: random.Random) -> Count:
    """Flips random bits of files in the cache of the undisturbed runs, and runs again."""
    count, budget = Count(), BUDGETS[0]
    while count.events < goal:
        files = [
            path
            for path in sorted(folder.glob("outputs/.cache/*/**/*"))
            if path.is_file() and path.stat().st_size and "index" not in path.parts
        ]
        for path in chance.sample(files, min(FLIPS_PER_RUN, goal - count.events)):
            content = bytearray(path.read_bytes())
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            path.write_bytes(content)
            count.events += 1
        process = start(folder, budget)
        output, _ = process.communicate(timeout=SECONDS)
        count.check(process, output)
        if process.returncode not in (0, 3):
            count.wrong.append(f"exit status {process.returncode}: {output[-2000:]}")
            continue
        count.compare("flipped", numbers(run_folders(folder)[budget]), expected[budget])
        print(f"flipped {count.events} bits, {output.count('is damaged and is computed again')} warnings", flush=True)
    return count


def full_disks(folder: Path, goal: int, expected: dict[str, Any], size: int, chance: random.Random) -> Count:
    """Runs on file systems of random sizes, which then grow."""
    count, budget = Count(), BUDGETS[0]
    for _ in range(goal):
        with small_disk(folder, int(chance.uniform(0.02, 0.6) * size)) as grow:
            process = start(folder, budget)
            output, _ = process.communicate(timeout=SECONDS)
            count.events += 1
            count.check(process, output)
            if process.returncode not in (0, 3):
                last = output.strip().splitlines()[-1] if output.strip() else ""
                print(f"exit status {process.returncode}: {last}", flush=True)
                if process.returncode != 1 or "disk is full" not in last:
                    count.wrong.append(
                        f"not one line about the disk, exit status {process.returncode}: {output[-1500:]}"
                    )
                grow()
                process = start(folder, budget)
                output, _ = process.communicate(timeout=SECONDS)
                count.check(process, output)
            if process.returncode not in (0, 3):
                count.wrong.append(f"does not go on with space: {output[-1500:]}")
                continue
            count.compare("full disk", numbers(run_folders(folder)[budget]), expected[budget])
    return count


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Any]:
    """`folder`/outputs on a file system of `size` bytes. Yields a function that makes it large."""
    outputs = folder / "outputs"
    outputs.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(outputs)]
    if subprocess.run(mount, capture_output=True).returncode:
        raise SystemExit("full disks need root, to mount a file system: use --full-disks 0")
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=1g", str(outputs)], check=True)
    finally:
        subprocess.run(["umount", str(outputs)], check=True)


if __name__ == "__main__":
    sys.exit(main())
