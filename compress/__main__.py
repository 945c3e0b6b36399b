"""The door: `python -m compress recipe=drone_nano [key=value …]`, `-m` to sweep."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from compress import config as configuration
from compress.errors import UserError

log = logging.getLogger("compress")


def _job(composed: DictConfig) -> float | None:
    """One run, or one point of a sweep. A sweep's job returns its accuracy and never exits the process."""
    from compress import pipeline, sweep  # after Hydra has checked the command: importing torch takes seconds

    folder = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return sweep.point(composed, folder)
    result = pipeline.run(configuration.to_config(composed), folder)
    pipeline.link_latest(folder)
    global _status
    _status = result.verdict.exit_status
    return None


_status = 0


def main() -> int:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints its own message and exits 1 for a user's typo
    configuration.register()
    door = hydra.main(version_base="1.3", config_path=str(configuration.CONF), config_name="config")(_job)
    try:
        door()
    except UserError as error:
        print(f"compress: error: {error}", file=sys.stderr)
        return 2
    except (HydraException, OmegaConfBaseException) as error:
        print(f"compress: error: {configuration.explain(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("compress: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return _status


if __name__ == "__main__":
    sys.exit(main())
