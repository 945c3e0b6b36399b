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

    A point that was finished before, in a sweep that goes on in its folder (`hydra.sweep.dir`), is taken as it is.
    A point never ends the process: what went wrong is kept in `failed.json` and the sweep goes on.

    Raises:
        Exception: of a full disk and the like, where no other point can be made either.
    """
    try:
        result = pipeline.run(to_config(composed), folder)
    except Finished:
        log.info("this point is finished already: %s", folder)
        return _objectives(ledger.read(folder / "ledger.jsonl"))
    except InUse as error:
        log.error("this point is not made: %s", error)
        return math.nan, math.nan
    except Exception as error:  # of ours too: hours of other points must not be lost with this one
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
    """Hydra calls this when all points are done."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        page = report.render_sweep(Path(config.hydra.sweep.dir))
        log.info("sweep report: %s", page)
