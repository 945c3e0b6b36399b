"""Search over the quantization schemes of a target, with mixed precision if all of them lose too much accuracy.

Candidates are compared with the FP32 graph in the same runtime on the calibration images. These come from the training
split but are not trained on, so the validation split stays unseen until the result is measured.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress import targets
from compress.capabilities import Evaluable
from compress.data import Split, supervised
from compress.errors import TargetFailed
from compress.ledger import Latency
from compress.measurement import accuracy, latency
from compress.product import Graph
from compress.quantization.sensitivity import ranked
from compress.targets.predictor import Predictor
from compress.targets.scheme import Scheme, ordered
from compress.tasks.agreement import Agreement
from compress.timing_noise import differ
from compress.training.placement import CPU

MARGIN = 0.8  # of the limit: the drop is judged on other images than those of the search, on which it differs
SESSIONS = 3  # timing sessions per candidate, so that differences can be compared with noise
# Mixed precision leaves at most this fraction of the layers in float. A scheme fails if it computes less than the rest
# of the INT8 MACs of the first candidate in INT8.
MAX_FLOAT_FRACTION = 0.5

log = logging.getLogger(__name__)


@dataclass
class Candidate:
    """One quantized graph. `accuracy` is that on the calibration images; `drop` is the FP32 graph's minus it."""

    graph: Graph
    scheme: Scheme
    accuracy: float
    drop: float
    int8_mac_share: float  # in [0, 1]
    layers_kept: tuple[str, ...] = ()  # in float, in addition to the model's exclusions; most sensitive first
    latency_ms: float | None = None
    seconds: float = 0.0  # spent on quantizing and evaluating it

    def row(self) -> dict[str, Any]:
        """The entry in `quantization.json`."""
        return {
            "target": self.graph.target,
            "scheme": self.scheme.description,
            "layers_kept": list(self.layers_kept),
            "accuracy": self.accuracy,
            "drop": self.drop,
            "int8_mac_share": self.int8_mac_share,
            "size_bytes": targets.size_bytes(self.graph),
            "latency_ms": self.latency_ms,
            "seconds": round(self.seconds, 1),
        }


@dataclass
class Search:
    """The search for one model on one target."""

    fp32: Graph  # the graph to quantize
    model: Evaluable  # decodes the outputs and names the layers that stay in float
    split: Split  # the images and labels that candidates are evaluated on
    images: Sequence[np.ndarray]  # one per image of `split`, float32 (1, c, s, s); also used for calibration
    folder: Path  # receives one subfolder per candidate
    limit: float  # maximum accuracy drop below FP32, absolute
    seconds: float  # time limit, checked between candidates; at least one candidate is made
    threads: int  # CPU threads of the runtime
    timed: bool  # compare latencies, since this machine is the device; `run` clears it if the runtime is emulated
    saturates: bool = False  # the device clips 16-bit sums of INT8 products: try saturation-safe schemes first
    portable: bool = False  # try saturation-safe schemes only
    device: torch.device = CPU  # ranks the layers of a torch network
    tried: list[Candidate] = field(default_factory=list)  # candidates that were made, in order
    failed: list[str] = field(default_factory=list)  # reasons, one per candidate that could not be made
    sensitivity: dict[str, float] = field(default_factory=dict)  # by `sensitivity.ranked`, if it was needed
    contended: bool = False  # other programs used the CPU while candidates were timed

    def run(self) -> Candidate:
        """Returns the best candidate.

        If latency is compared, this is the most accurate of those within the limit that are as fast as the fastest;
        otherwise the one with the fewest layers in float, the earliest of equals. Only if none is within `MARGIN` of
        the limit, those that are closer to it are considered. If no candidate is within the limit, it is the most
        accurate one without additional layers in float, which cost speed and did not help enough.
        Raises TargetFailed if no scheme of the target can quantize this network.
        """
        self._deadline = time.monotonic() + self.seconds
        reference = targets.load(self.fp32, self.threads)
        self.timed = self.timed and reference.obtained == "measured"
        self._reference = self._accuracy(reference)
        offered = targets.get(self.fp32.target).SCHEMES
        for scheme in ordered(offered, saturates=self.saturates, portable=self.portable):
            # Fallbacks are slower, and 7-bit weights are coarser and only help if the device saturates.
            slower_or_coarser = scheme.fallback or (scheme.saturation_safe and not self.saturates)
            if self.tried and (self._out_of_time() or (self._acceptable() and (slower_or_coarser or not self.timed))):
                continue
            self._try(scheme)
        if not self.tried:
            raise TargetFailed(f"no scheme can quantize this network: {'; '.join(dict.fromkeys(self.failed))}")
        if not self._acceptable() and not self._out_of_time():
            self._try_mixed_precision(min(self.tried, key=lambda candidate: candidate.drop).scheme)
        chosen = self._chosen()
        log.info("quantize: %s: %s", self.fp32.target, self._describe(chosen))
        return chosen

    def _acceptable(self) -> list[Candidate]:
        return [candidate for candidate in self.tried if self._within_limit(candidate)]

    def _within_limit(self, candidate: Candidate | None, fraction: float = MARGIN) -> bool:
        # In floating point 0.99 - 0.98 is slightly more than 0.01.
        return candidate is not None and candidate.drop <= fraction * self.limit + 1e-9

    def _out_of_time(self) -> bool:
        return time.monotonic() > self._deadline

    def _accuracy(self, predictor: Predictor) -> float:
        model = self.model
        return accuracy.evaluate(predictor, model.decode, self.split, supervised(self.split), model.classes).value

    def _try(self, scheme: Scheme, in_float: Sequence[str] = ()) -> Candidate | None:
        """Quantizes and evaluates one candidate; adds it to `tried`, or the reason of its failure to `failed`."""
        start = time.monotonic()
        reasons = dict.fromkeys(in_float, f"one of the {len(in_float)} layers that are most sensitive to INT8")
        target, folder = targets.get(self.fp32.target), self.folder / str(len(self.tried) + len(self.failed))
        try:
            graph = target.quantize(self.fp32, self.model, self.images, folder, scheme, reasons)
            predictor = targets.load(graph, self.threads)
            int8_mac_share = predictor.int8_mac_share()
            if self.tried and not in_float and int8_mac_share < (1 - MAX_FLOAT_FRACTION) * self.tried[0].int8_mac_share:
                raise TargetFailed(f"leaves {1 - int8_mac_share:.0%} of the MACs in float")
            measured = self._accuracy(predictor)
        except TargetFailed as error:
            log.warning("quantize: %s: %s failed: %s", self.fp32.target, scheme.description, error)
            self.failed.append(str(error))
            return None
        drop, seconds = self._reference - measured, time.monotonic() - start
        candidate = Candidate(graph, scheme, measured, drop, int8_mac_share, tuple(in_float), seconds=seconds)
        self.tried.append(candidate)
        log.info("quantize: %s: tried %s", self.fp32.target, self._describe(candidate))
        return candidate

    def _describe(self, candidate: Candidate) -> str:
        quality = "agreement" if isinstance(supervised(self.split).metric, Agreement) else "accuracy"
        in_float = f", {len(candidate.layers_kept)} additional layers in float" if candidate.layers_kept else ""
        return f"{candidate.scheme.description}{in_float}: {quality} drop {candidate.drop:.4f}, limit {self.limit:g}"

    def _try_mixed_precision(self, scheme: Scheme) -> None:
        """Bisects for the smallest number of sensitive layers to leave in float, up to `MAX_FLOAT_FRACTION`."""
        log.info("quantize: %s: no scheme is within the limit, ranking layers by sensitivity", self.fp32.target)
        excluded = tuple(f"{prefix}." for prefix in self.model.quantization_exclusions())  # in float anyway
        self.sensitivity = dict(ranked(self.model, self.images, self.device))
        order = [name for name in self.sensitivity if not f"{name}.".startswith(excluded)]
        too_few, enough = 0, round(MAX_FLOAT_FRACTION * len(order))
        if enough == 0 or not self._within_limit(self._try(scheme, order[:enough])):
            return
        while enough - too_few > 1 and not self._out_of_time():
            middle = (too_few + enough) // 2
            if self._within_limit(self._try(scheme, order[:middle])):
                enough = middle
            else:
                too_few = middle

    def _chosen(self) -> Candidate:
        acceptable = self._acceptable() or [each for each in self.tried if self._within_limit(each, 1.0)]
        if not acceptable:
            log.warning("quantize: %s: no candidate is within the limit, using the most accurate", self.fp32.target)
            return min((c for c in self.tried if not c.layers_kept), key=lambda c: c.drop)
        if not self.timed:
            return min(acceptable, key=lambda candidate: len(candidate.layers_kept))
        latencies = self._latencies(acceptable)
        for candidate, timing in zip(acceptable, latencies, strict=True):
            candidate.latency_ms = timing.median
        fastest = min(latencies, key=lambda timing: timing.median or 0.0)
        ties = [c for c, timing in zip(acceptable, latencies, strict=True) if not differ(fastest, timing)]
        return min(ties, key=lambda c: (c.drop, len(c.layers_kept)))  # the most accurate of the fastest

    def _latencies(self, candidates: Sequence[Candidate]) -> list[Latency]:
        """Median latencies in ms, with the lowest and highest of all sessions, which are interleaved against drift."""
        image = self.model.example_input().numpy()
        calls = {
            f"{index}/{session}": functools.partial(targets.load(candidate.graph, self.threads), image)
            for index, candidate in enumerate(candidates)
            for session in range(SESSIONS)
        }
        timings = list(latency.interleaved(calls).values())
        self.contended = any(timing.contended for timing in timings)
        medians = [timing.median for timing in timings]
        sessions = (sorted(medians[first : first + SESSIONS]) for first in range(0, len(medians), SESSIONS))
        return [Latency(times[SESSIONS // 2], low=times[0], high=times[-1]) for times in sessions]
