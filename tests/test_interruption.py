from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from compress import interruption

ROOT = Path(__file__).parents[1]
HEAD = """\
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes of a shell ignore it
from compress import interruption
number = signal.Signals(int(sys.argv[1]))
def stop():
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # the handler is called here
"""
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def run(script: str, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Runs `script` after `HEAD`; its function `stop` sends the signal to itself."""
    return subprocess.run(
        [sys.executable, "-c", HEAD + script, str(int(number))],
        cwd=ROOT, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@BOTH
def test_a_signal_raises_and_stays_requested(number: signal.Signals) -> None:
    done = run(
        """
interruption.install()
interruption.check()
try:
    stop()
except KeyboardInterrupt:
    print("raised", interruption.requested())
interruption.check()
""",
        number,
    )
    assert done.stdout == "raised True\n" and done.stderr.endswith("KeyboardInterrupt\n")


@BOTH
def test_it_is_raised_again_after_a_finalizer_dropped_it(number: signal.Signals) -> None:
    done = run(
        """
interruption.install()
class Drops:
    def __del__(self):
        stop()
Drops()
print("dropped")
time.sleep(50)
""",
        number,
    )
    assert done.stdout == "dropped\n"
    assert done.stderr.endswith("KeyboardInterrupt\n") and "Exception ignored" not in done.stderr


def test_it_is_raised_again_after_a_library_caught_it() -> None:
    done = run(
        """
interruption.CAUGHT_SECONDS = 0.1
interruption.install()
for turn in range(2):
    try:
        stop()
        time.sleep(50)
    except:
        print("caught", flush=True)
time.sleep(50)
""",
        signal.SIGINT,
    )
    assert done.stdout == "caught\ncaught\n" and done.stderr.endswith("KeyboardInterrupt\n")


@pytest.mark.parametrize(
    ("number", "installed"), [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGINT, False)]
)
@pytest.mark.parametrize("ends_with", ["pass", "raise ValueError"])
def test_it_waits_for_the_end_of_a_block(number: signal.Signals, installed: bool, ends_with: str) -> None:
    done = run(
        f"""
if {installed}:
    interruption.install()
try:
    with interruption.delayed():
        stop()
        print("goes on", interruption.requested())
        {ends_with}
except KeyboardInterrupt:
    print("raised", interruption.requested())
""",
        number,
    )
    assert done.stdout == f"goes on False\nraised {installed}\n" and done.stderr == ""


def test_a_background_process_still_ignores_ctrl_c() -> None:
    script = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
interruption.install()
stop()
with interruption.delayed():
    stop()
print("ignored")
number = signal.SIGTERM
stop()
"""
    done = run(script, signal.SIGINT)
    assert done.stdout == "ignored\n" and done.stderr.endswith("KeyboardInterrupt\n")


def test_other_unraisable_errors_are_printed() -> None:
    done = run("interruption.install()\nclass Fails:\n    def __del__(self):\n        1 / 0\nFails()\n", signal.SIGINT)
    assert done.returncode == 0 and "ZeroDivisionError" in done.stderr


@BOTH
@pytest.mark.parametrize("command", ["compress.command_line", "compress.report.__main__"])
def test_a_command_can_be_interrupted_while_it_is_imported(number: signal.Signals, command: str) -> None:
    done = run(
        f"""
from compress import __main__
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {command!r}:
            stop()
sys.meta_path.insert(0, Finder())
sys.argv = ["compress", "report" if "report" in {command!r} else "run"]
__main__.program()
""",
        number,
    )
    assert (done.returncode, done.stdout, done.stderr) == (interruption.STATUS, "", "compress: interrupted\n")


def test_nothing_slow_is_imported_before_signals_are_handled() -> None:
    done = run(
        "import compress.__main__\nprint(sorted({'torch', 'hydra', 'omegaconf', 'numpy'} & set(sys.modules)))",
        signal.SIGINT,
    )
    assert done.stdout == "[]\n"


def test_while_the_process_ends_signals_are_ignored() -> None:
    done = run("interruption.install()\ninterruption.ignore()\nstop()\nprint('ends')\n", signal.SIGTERM)
    assert (done.returncode, done.stdout) == (0, "ends\n")
