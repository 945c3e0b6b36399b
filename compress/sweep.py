"""Sweeps (`-m`): every job is one point that returns its objectives; the report compares the points."""

from __future__ import annotations

import json
import logging
import math
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from compress import atomic, disk, interruption, ledger, pipeline, report, typed_json
from compress.budget import Verdict
from compress.config import Config, to_config
from compress.errors import InUse, UserError
from compress.report.sweep_reader import FAILURE, PLAN, Failure, read_sweep
from compress.run_folder import Finished

log = logging.getLogger(__name__)

FLOPS, LATENCY = "flops", "latency"  # second objective of a point; the first is accuracy
RELEASE_SECONDS = 120.0  # until a file server releases the lock of a machine that was lost; 90 by default in NFS 4


def point(
    composed: DictConfig, folder: Path, objective: str = FLOPS, words: Sequence[str] = (), *, worker: bool = False
) -> tuple[float, float]:
    """Runs one point; returns (accuracy of the best artifact, FLOPs) for sweepers that optimise, NaN on failure. With
    `objective` LATENCY, the second number is the latency predicted for the device, in ms.

    A point that an interrupted sweep finished in the same folder (`hydra.sweep.dir`) is not run again. The error of a
    failed point is written to `failed.json`, and the sweep continues; if no other point can be run either, because the
    disk is full or not writable, or if the command was interrupted, the error is raised.

    Args:
        words: the overrides of the point, as in `pipeline.run`.
        worker: of a launcher: waits up to `RELEASE_SECONDS` if another process uses the folder, because it may be a
            worker that was lost.
    """
    end = time.monotonic() + RELEASE_SECONDS * worker
    while True:
        try:
            return _run(to_config(composed), folder, objective, words)
        except InUse as error:
            if time.monotonic() >= end:
                log.error("this point is not run: %s", error)
                return math.nan, math.nan
            time.sleep(1)
        except Exception as error:  # any: one failed point must not end a sweep of hours
            if disk.problem(error, folder) or interruption.requested():
                raise
            mistake = isinstance(error, UserError)
            log.error("this point failed: %s", error, exc_info=not mistake)
            folder.mkdir(parents=True, exist_ok=True)
            where = f" (on {socket.gethostname()})" if worker else ""  # another machine may lack a file
            atomic.write(folder / FAILURE, json.dumps(asdict(Failure(f"{error}{where}", mistake))))
            return math.nan, math.nan


def _run(config: Config, folder: Path, objective: str, words: Sequence[str]) -> tuple[float, float]:
    try:
        result = pipeline.run(config, folder, words)
        return _objectives(result.rows, result.verdict, objective)
    except Finished:
        log.info("this point was finished before: %s", folder)
        verdict = typed_json.read(Verdict, folder / "verdict.json") if objective == LATENCY else None
        return _objectives(ledger.read(folder / "ledger.jsonl"), verdict, objective)


def _objectives(rows: Sequence[ledger.Row], verdict: Verdict | None, objective: str) -> tuple[float, float]:
    last = rows[-1]
    values = [row.accuracy.value for row in rows if row.stage == last.stage and row.accuracy]
    accuracy = max(values, default=math.nan)
    if objective == FLOPS:
        return accuracy, float(last.flops)
    predicted = [
        remark.numbers for remark in (verdict.remarks if verdict else ()) if remark.kind == "predicted_latency"
    ]
    return accuracy, min((ms for numbers in predicted for ms in numbers.values()), default=math.nan)


def planned(config: DictConfig) -> list[str] | None:
    """Names of the points of a sweep, in order; None if they are not known before it starts, as in a search.

    Args:
        config: composed for the sweep, with the node `hydra`.
    """
    node = config.hydra
    subdir = OmegaConf.to_container(node.sweep, resolve=False)["subdir"]  # type: ignore[call-overload, index]
    if not str(node.sweeper._target_).endswith(".BasicSweeper"):
        return None
    parser = OverridesParser.create()
    fixed = [f"{key}={value}" for key, value in (node.sweeper.params or {}).items()]
    words = parser.parse_overrides([*fixed, *node.overrides.task])
    batches = BasicSweeper.split_arguments(words, None)
    if subdir == "${hydra.job.num}":
        return [str(index) for index in range(len(batches[0]))]
    if subdir != "${hydra.job.override_dirname}":
        return None
    names = node.job.config.override_dirname
    return [
        get_overrides_dirname(parser.parse_overrides(each), names.exclude_keys, names.item_sep, names.kv_sep)
        for each in batches[0]
    ]


class Report(Callback):
    """Hydra callback that writes `sweep.json` before the first point and the sweep report when all points are done."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if (names := planned(config)) is not None:
            folder = Path(config.hydra.sweep.dir)
            folder.mkdir(parents=True, exist_ok=True)
            atomic.write(folder / PLAN, json.dumps({"schema_version": 1, "points": names}))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        points = read_sweep(folder)
        counts = Counter(point.status for point in points)
        log.info("%d points: %s", len(points), ", ".join(f"{count} {status}" for status, count in counts.items()))
        for each in points:
            if each.status != "met":
                log.info("%s: %s", each.name, each.state)
        log.info("sweep report: %s", report.render_sweep(folder))
