"""The door: `python -m compress recipe=drone_nano [key=value …]`, `-m` to sweep."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from compress import config as configuration
from compress.budget import MET
from compress.errors import InUse, UserError

USER_MISTAKE, INTERRUPTED = 2, 130  # MET and NOT_MET are the verdict's; 1 is Python's own, for our errors


class Door:
    """Hydra throws away what a job returns, and prints around what it raises: the outcome is kept here."""

    def __init__(self) -> None:
        self.status = MET
        self.mistake: UserError | None = None

    def job(self, composed: DictConfig) -> tuple[float, float] | None:
        """One run, or one point of a sweep. A point returns its objectives and never ends the process."""
        from compress import pipeline, sweep  # once Hydra has checked the command: torch takes seconds to import

        folder = Path(HydraConfig.get().runtime.output_dir)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return sweep.point(composed, folder)
        try:
            result = pipeline.run(configuration.to_config(composed), folder)
        except UserError as error:
            self.mistake = error
            # Refused before any work: nothing but Hydra's log, and that is this run's own.
            if not isinstance(error, InUse) and {file.name for file in folder.glob("*")} <= {"log.txt"}:
                shutil.rmtree(folder, ignore_errors=True)
            return None
        self.status = result.verdict.exit_status
        return None


def main() -> int:
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return command()
    from compress import distributed  # imports torch, which takes seconds

    return distributed.run(command)


def command() -> int:
    """The exit status of the command line."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints its own message and exits 1 for a user's typo
    # argparse takes positional words in one run only: `recipe=x -m prune.ratio=0.1,0.3` would be refused.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))
    if {"-h", "--help"} & set(sys.argv) and not any(word.startswith("recipe=") for word in sys.argv):
        sys.argv.append("recipe=drone_nano")  # Hydra composes before it helps, and a recipe must be named
    given = get_args_parser().parse_known_args()[0]
    if given.experimental_rerun:
        return _refuse("--experimental-rerun: it unpickles a file, which can run code; give the command again")
    configuration.register(given.overrides)
    door = Door()
    try:
        hydra.main(version_base="1.3", config_path=str(configuration.CONF), config_name="config")(door.job)()
        if door.mistake is not None:
            raise door.mistake
    except UserError as error:
        return _refuse(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        return _refuse(str(configuration.explain(error, given.overrides)))
    except KeyboardInterrupt:
        print("compress: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return INTERRUPTED
    return door.status


def _refuse(message: str) -> int:
    print(f"compress: error: {message}", file=sys.stderr)
    return USER_MISTAKE


if __name__ == "__main__":
    sys.exit(main())
