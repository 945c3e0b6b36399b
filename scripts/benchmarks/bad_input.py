"""Gives the command line and the library hundreds of bad inputs and checks how each is refused.

python scripts/benchmarks/bad_input.py [--every N] [WORDS …]

WORDS: only the cases whose name holds one of them. --every: only each N-th case, as `make test` does.

Each case must end with its exit status within 30 seconds, print one line `compress: error:` and no traceback, and
leave no files behind. The packages are imported once; each case is a fork of this process, in a folder of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

os.environ["OMP_NUM_THREADS"] = "1"

import hydra  # noqa: F401
import onnx  # noqa: F401
import onnxruntime  # noqa: F401
import timm  # noqa: F401
import torch
import ultralytics  # noqa: F401
from bad_input_cases import Case, cases

from compress import cache, command_line, pipeline, report  # noqa: F401
from compress.errors import UserError
from compress.report import __main__ as report_command

SECONDS = 30
ACCEPTED = 97  # exit status of a case that began real work
PARALLEL = 2


def _start(case: Case, place: Path) -> int:
    work = place / "work"
    for folder in (work, place / "tmp", place / "home"):
        folder.mkdir(parents=True)
    process = os.fork()
    if process == 0:
        _child(case, place)
    return process


def _child(case: Case, place: Path) -> NoReturn:
    status = 98
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
        os.chdir(place / "work")
        os.environ |= {"TMPDIR": str(place / "tmp"), "HOME": str(place / "home")}
        for key, value in case.environment.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
        tempfile.tempdir = None
        if case.setup:
            case.setup()
        (place / "before").write_text("\n".join(_files(place / "work")))
        if not case.work:
            pipeline._run = _accept  # type: ignore[assignment]
        status = _run(case)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def _accept(*_: object) -> NoReturn:
    os._exit(ACCEPTED)


def _run(case: Case) -> int:
    sys.argv = ["compress", *case.arguments]
    if case.program == "compress":
        return command_line.main()
    if case.program == "report":
        return report_command.main(list(case.arguments))
    if case.program == "cache":
        return cache.main(list(case.arguments))
    assert case.call is not None
    try:
        case.call()
    except (UserError, TypeError) as error:
        print(f"compress: error: {error}", file=sys.stderr)
        return 2
    return 0


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def _wait(processes: Sequence[int]) -> dict[int, tuple[int, float]]:
    """Exit status and seconds of each process that has ended; waits for one at least."""
    began = time.monotonic()
    while True:
        ended = {}
        for process in processes:
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                ended[process] = (os.waitstatus_to_exitcode(status), time.monotonic() - began)
        if ended:
            return ended
        if time.monotonic() - began > SECONDS:
            for process in processes:
                os.kill(process, 9)
        time.sleep(0.01)


def _judge(case: Case, place: Path, status: int, seconds: float) -> list[str]:
    error = (place / "stderr").read_text(errors="replace")
    everything = error + (place / "stdout").read_text(errors="replace")
    if status == ACCEPTED:
        return ["accepted: it started to work"]
    wrong = []
    if status != case.status:
        wrong.append(f"exit status {status} instead of {case.status}")
    if "Traceback" in everything:
        wrong.append(f"a traceback that ends in {everything.strip().splitlines()[-1][:160]!r}")
    lines = [line for line in error.splitlines() if line.startswith("compress: error:")]
    if len(lines) != 1:
        wrong.append(f"{len(lines)} lines of error: {error.strip()[-160:]!r}")
    wrong += [f"{word!r} is not named: {lines[0][:160]!r}" for word in case.mentions if lines and word not in lines[0]]
    before = set((place / "before").read_text().splitlines()) if (place / "before").exists() else set()
    if case.status == 2 and (left := sorted(set(_files(place / "work")) - before) + _files(place / "home")):
        wrong.append(f"files left behind: {', '.join(left[:4])}")
    if seconds > SECONDS:
        wrong.append(f"{seconds:.0f} s")
    return wrong


def _mounted(case: Case, place: Path) -> list[str]:
    """`case` on a file system without space."""
    work = place / "work"
    work.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(work)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        print(f"{case.name}: not run, as nothing can be mounted here")
        return []
    try:
        (work / "fill").write_bytes(b"x" * 40000)
        for folder in (place / "tmp", place / "home"):
            folder.mkdir()
        process = os.fork()
        if process == 0:
            _child(case, place)
        return _judge(case, place, *_wait([process])[process])
    finally:
        subprocess.run(["umount", str(work)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--every", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [case for case in cases() if not given.words or any(word in case.name for word in given.words)]
    chosen = chosen[:: given.every]
    root, failed, running = Path(tempfile.mkdtemp()), dict[str, list[str]](), dict[int, tuple[Case, Path, float]]()
    waiting = list(enumerate(chosen))
    while waiting or running:
        while waiting and len(running) < PARALLEL:
            index, case = waiting.pop(0)
            place = root / str(index)
            if case.root:
                if wrong := _mounted(case, place):
                    failed[case.name] = wrong
                continue
            running[_start(case, place)] = (case, place, time.monotonic())
        if not running:
            continue
        for process, (status, _) in _wait(list(running)).items():
            case, place, began = running.pop(process)
            if wrong := _judge(case, place, status, time.monotonic() - began):
                failed[case.name] = wrong
            shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(root, ignore_errors=True)
    for name, wrong in failed.items():
        print(f"{name:40}  {'; '.join(wrong)}")
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
