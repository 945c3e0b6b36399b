"""Sweeps (`-m`): every job is one point that returns its objectives; the report compares the points."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from compress import disk, ledger, pipeline, report
from compress.config import to_config
from compress.errors import InUse, UserError
from compress.run_folder import Finished

log = logging.getLogger(__name__)


def point(composed: DictConfig, folder: Path) -> tuple[float, float]:
    """Runs one point; returns (accuracy of the best artifact, FLOPs) for sweepers that optimise, NaN on failure.

    A point that an interrupted sweep finished in the same folder (`hydra.sweep.dir`) is not run again. The error of a
    failed point is written to `failed.json`, and the sweep continues; if no other point can be run either, because the
    disk is full or not writable, the error is raised."""
    try:
        result = pipeline.run(to_config(composed), folder)
    except Finished:
        log.info("this point was finished before: %s", folder)
        return _objectives(ledger.read(folder / "ledger.jsonl"))
    except InUse as error:
        log.error("this point is not run: %s", error)
        return math.nan, math.nan
    except Exception as error:  # any: one failed point must not end a sweep of hours
        if disk.problem(error, folder):
            raise
        log.error("this point failed: %s", error, exc_info=not isinstance(error, UserError))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "failed.json").write_text(json.dumps({"error": str(error)}))
        return math.nan, math.nan
    return _objectives(result.rows)


def _objectives(rows: Sequence[ledger.Row]) -> tuple[float, float]:
    last = rows[-1]
    values = [row.accuracy.value for row in rows if row.stage == last.stage and row.accuracy]
    return max(values, default=math.nan), float(last.flops)


class Report(Callback):
    """Hydra callback that writes the sweep report when all points are done."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        log.info("sweep report: %s", report.render_sweep(Path(config.hydra.sweep.dir)))
