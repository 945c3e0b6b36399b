"""Runs the command line and the library on hundreds of invalid inputs and checks how each is rejected.

    python scripts/benchmarks/bad_input.py [--every N] [WORDS …]

Each case must end with the expected exit status within 30 seconds, print exactly one line `compress: error:` and no
traceback, and leave no files behind. Packages are imported once; each case is a fork of this process in a new folder.
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
from compress.profiling import command as profile_command
from compress.report import __main__ as report_command

SECONDS = 30
ACCEPTED = 97  # exit status of a case that passed all checks and would start to work
PARALLEL = 2


def _start(case: Case, folder: Path) -> int:
    for name in ("work", "tmp", "home"):
        (folder / name).mkdir(parents=True)
    process = os.fork()
    if process == 0:
        _child(case, folder)
    return process


def _child(case: Case, folder: Path) -> NoReturn:
    status = 98
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
        os.chdir(folder / "work")
        os.environ |= {"TMPDIR": str(folder / "tmp"), "HOME": str(folder / "home")}
        for key, value in case.environment.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
        tempfile.tempdir = None
        if case.setup:
            case.setup()
        (folder / "before").write_text("\n".join(_files(folder / "work")))
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
    if case.program == "profile":
        return profile_command.main(list(case.arguments))
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
    """Waits until at least one process ends. Returns {process: (exit status, seconds waited)} of those that ended.

    After 30 seconds all processes are killed.
    """
    start = time.monotonic()
    while True:
        ended = {}
        for process in processes:
            pid, status = os.waitpid(process, os.WNOHANG)
            if pid:
                ended[process] = (os.waitstatus_to_exitcode(status), time.monotonic() - start)
        if ended:
            return ended
        if time.monotonic() - start > SECONDS:
            for process in processes:
                os.kill(process, 9)
        time.sleep(0.01)


def _judge(case: Case, folder: Path, status: int, seconds: float) -> list[str]:
    """The deviations of a finished case from what is expected."""
    error = (folder / "stderr").read_text(errors="replace")
    output = error + (folder / "stdout").read_text(errors="replace")
    if status == ACCEPTED:
        return ["the input was accepted"]
    problems = []
    if status != case.status:
        problems.append(f"exit status {status} instead of {case.status}")
    if "Traceback" in output:
        problems.append(f"traceback that ends with {output.strip().splitlines()[-1][:160]!r}")
    lines = [line for line in error.splitlines() if line.startswith("compress: error:")]
    if len(lines) != 1:
        problems.append(f"{len(lines)} error lines instead of 1: {error.strip()[-160:]!r}")
    absent = [word for word in case.mentions if lines and word not in lines[0]]
    problems += [f"{word!r} is not in the error: {lines[0][:160]!r}" for word in absent]
    before = set((folder / "before").read_text().splitlines()) if (folder / "before").exists() else set()
    if case.status == 2 and (leftover := sorted(set(_files(folder / "work")) - before) + _files(folder / "home")):
        problems.append(f"files left behind: {', '.join(leftover[:4])}")
    if seconds > SECONDS:
        problems.append(f"took {seconds:.0f} s")
    return problems


def _mounted(case: Case, folder: Path) -> list[str]:
    """Runs a case on a file system with almost no free space, and returns its problems."""
    work = folder / "work"
    work.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(work)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        print(f"{case.name}: not run, a file system cannot be mounted here")
        return []
    try:
        (work / "fill").write_bytes(b"x" * 40000)
        for name in ("tmp", "home"):
            (folder / name).mkdir()
        process = os.fork()
        if process == 0:
            _child(case, folder)
        return _judge(case, folder, *_wait([process])[process])
    finally:
        subprocess.run(["umount", str(work)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="run only cases whose name contains one of these")
    parser.add_argument("--every", type=int, default=1, help="run only every N-th case, as `make test` does")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [case for case in cases() if not options.words or any(word in case.name for word in options.words)]
    chosen = chosen[:: options.every]
    root, failed, running = Path(tempfile.mkdtemp()), dict[str, list[str]](), dict[int, tuple[Case, Path, float]]()
    waiting = list(enumerate(chosen))
    while waiting or running:
        while waiting and len(running) < PARALLEL:
            index, case = waiting.pop(0)
            folder = root / str(index)
            if case.root:
                if problems := _mounted(case, folder):
                    failed[case.name] = problems
                continue
            running[_start(case, folder)] = (case, folder, time.monotonic())
        if not running:
            continue
        for process, (status, _) in _wait(list(running)).items():
            case, folder, start = running.pop(process)
            if problems := _judge(case, folder, status, time.monotonic() - start):
                failed[case.name] = problems
            shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(root, ignore_errors=True)
    for name, problems in failed.items():
        print(f"{name:40}  {'; '.join(problems)}")
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
