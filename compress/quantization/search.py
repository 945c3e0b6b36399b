"""Tries a target's ways to quantize and picks one.

Candidates are held against the FP32 graph in the same runtime, on the calibration images: they come from the training
split and nothing was trained on them, so the validation split stays unseen until the result is weighed. Schemes come
first, in the target's order of promise; where all lose too much, mixed precision: layers are ranked once by what INT8
does to each alone, and the number of them that stays in float is found by bisection.
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
from compress.timing_noise import differ

SESSIONS = 3  # of a candidate: what one is timed faster than another by is noise
MOST_KEPT = 0.5  # of the layers, or of the MACs: a graph with more of them in float is no INT8 graph

log = logging.getLogger(__name__)


@dataclass
class Candidate:
    """One graph that was tried. `accuracy` and `drop` (against FP32) are of the calibration images."""

    graph: Graph
    scheme: Scheme
    accuracy: float
    drop: float
    int8_mac_share: float  # in [0, 1]
    layers_kept: tuple[str, ...] = ()  # in float beside what the model asks for, most sensitive first
    latency_ms: float | None = None
    seconds: float = 0.0  # to make and to judge

    def row(self) -> dict[str, Any]:
        """For `quantization.json`."""
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
    """One target's search for one model.

    Attributes:
        fp32: the graph to quantize.
        split: what to calibrate and compare on.
        images: those of the split as the network takes them, read once for all targets.
        limit: how many points a candidate may lose.
        seconds: when to stop looking; one candidate is made whatever it takes.
        threads: for the runtime.
        timed: whether this machine's times say anything: it is the device.
        saturates: sums of INT8 products overflow on the device, so that schemes safe from that go first.
        portable: only such schemes are tried.
    """

    fp32: Graph
    model: Evaluable
    split: Split
    images: Sequence[np.ndarray]
    folder: Path
    limit: float
    seconds: float
    threads: int
    timed: bool
    saturates: bool = False
    portable: bool = False
    tried: list[Candidate] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)  # why, of candidates that could not be made

    def run(self) -> Candidate:
        """The graph to hand out: of the candidates within the limit the fastest where they can be timed, else the
        first; where none is within it, the most accurate scheme, with no more layers in float than it says itself.

        Raises:
            TargetFailed: the target cannot quantize this network in any way.
        """
        target = targets.get(self.fp32.target)
        self._until = time.monotonic() + self.seconds
        reference = targets.load(self.fp32, self.threads)
        self.timed = self.timed and reference.obtained == "measured"
        self._reference = self._accuracy(reference)
        for scheme in ordered(target.SCHEMES, saturates=self.saturates, portable=self.portable):
            spare = scheme.fallback or (scheme.saturation_safe and not self.saturates)  # slower, or only less precise
            if self.tried and (self._late() or (self._good() and (spare or not self.timed))):
                continue
            self._try(scheme)
        if not self.tried:
            raise TargetFailed("; ".join(dict.fromkeys(self.failed)))
        if not self._good() and not self._late():
            self._mix(min(self.tried, key=lambda candidate: candidate.drop).scheme)
        chosen = self._chosen()
        log.info("quantize: %s: %s", self.fp32.target, self._said(chosen))
        return chosen

    def _good(self) -> list[Candidate]:
        return [candidate for candidate in self.tried if self._within(candidate)]

    def _within(self, candidate: Candidate | None) -> bool:
        # In binary a drop from 0.99 to 0.98 is a hair more than 0.01.
        return candidate is not None and candidate.drop <= self.limit + 1e-9

    def _late(self) -> bool:
        return time.monotonic() > self._until

    def _accuracy(self, predictor: Predictor) -> float:
        model = self.model
        return accuracy.evaluate(predictor, model.decode, self.split, supervised(self.split), model.classes).value

    def _try(self, scheme: Scheme, kept: Sequence[str] = ()) -> Candidate | None:
        """None where that cannot be done: others may."""
        began = time.monotonic()
        why = {name: f"one of the {len(kept)} layers that INT8 hurts most" for name in kept}
        target, place = targets.get(self.fp32.target), self.folder / str(len(self.tried) + len(self.failed))
        try:
            graph = target.quantize(self.fp32, self.model, self.images, place, scheme, why)
            predictor = targets.load(graph, self.threads)
            share = predictor.int8_mac_share().overall
            if self.tried and not kept and share < (1 - MOST_KEPT) * self.tried[0].int8_mac_share:
                raise TargetFailed(f"leaves {1 - share:.0%} of the MACs in float")
            found = self._accuracy(predictor)
        except TargetFailed as error:
            log.warning("quantize: %s: %s failed: %s", self.fp32.target, scheme.description, error)
            self.failed.append(str(error))
            return None
        candidate = Candidate(graph, scheme, found, self._reference - found, share, tuple(kept))
        candidate.seconds = time.monotonic() - began
        self.tried.append(candidate)
        log.info("quantize: %s: tried %s", self.fp32.target, self._said(candidate))
        return candidate

    def _said(self, candidate: Candidate) -> str:
        kept = f", {len(candidate.layers_kept)} more layers in float" if candidate.layers_kept else ""
        return f"{candidate.scheme.description}{kept}: loses {candidate.drop:.4f}, {self.limit:g} allowed"

    def _mix(self, scheme: Scheme) -> None:
        """Bisects for the fewest layers that must stay in float, unless even most of them would not do."""
        log.info("quantize: %s: no scheme keeps the accuracy, ranking layers", self.fp32.target)
        asked = tuple(f"{prefix}." for prefix in self.model.quantization_exclusions())  # these stay in float as it is
        order = [name for name, _ in ranked(self.model, self.images) if not f"{name}.".startswith(asked)]
        least, most = 0, round(MOST_KEPT * len(order))
        if most == 0 or not self._within(self._try(scheme, order[:most])):
            return
        while most - least > 1 and not self._late():
            middle = (least + most) // 2
            good = self._within(self._try(scheme, order[:middle]))
            least, most = (least, middle) if good else (middle, most)

    def _chosen(self) -> Candidate:
        good = self._good()
        if not good:
            log.warning("quantize: %s: no candidate is within the limit", self.fp32.target)
            return min((each for each in self.tried if not each.layers_kept), key=lambda candidate: candidate.drop)
        if not self.timed:
            return min(good, key=lambda candidate: len(candidate.layers_kept))
        times = self._times(good)
        for candidate, took in zip(good, times, strict=True):
            candidate.latency_ms = took.median
        fastest = min(times, key=lambda took: took.median or 0.0)
        ties = [candidate for candidate, took in zip(good, times, strict=True) if not differ(fastest, took)]
        return min(ties, key=lambda candidate: (candidate.drop, len(candidate.layers_kept)))  # the more accurate one

    def _times(self, candidates: Sequence[Candidate]) -> list[Latency]:
        """Milliseconds of each candidate: `median`, `low` and `high` of its sessions, all of which take turns."""
        image = self.model.example_input().numpy()
        names = [[f"{index}/{session}" for session in range(SESSIONS)] for index in range(len(candidates))]
        loaded = {
            name: targets.load(each.graph, self.threads)
            for own, each in zip(names, candidates, strict=True)
            for name in own
        }
        took = latency.interleaved({name: functools.partial(each, image) for name, each in loaded.items()})
        medians = [sorted(took[name].median for name in own) for own in names]
        return [Latency(own[len(own) // 2], low=own[0], high=own[-1]) for own in medians]
