"""Corrects the roofline of each operator by what was measured on a device. Imports no torch.

    seconds of an operator = roofline x exp(f),   f ~ Gaussian process

f depends on the kind of the operator and on the logarithms of its sizes, so that it is the efficiency of an operator
relative to the roofline, interpolated between operators of the same kind and similar sizes. What is measured are sums
over operators: the latencies of small networks (the microbenchmark of the bench kit) or of whole ones. The logarithm of
a sum is linearised, and f maximises the posterior (Gauss-Newton with a line search; the Laplace approximation in
Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, section 3.4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import linalg, sparse

from compress.devices.operators import Operator

# Standard deviations of f: of all operators together, of a kind, and of an operator within its kind.
ALL, KIND, OWN = 0.3, 0.5, 0.7
LENGTH = 5.0  # distance of features at which the covariance within a kind is 0.48 of the variance
NOISE, FREEDOM = 0.05, 4  # of the logarithm of a latency: scale and degrees of freedom of Student's t distribution
FUSED = 0.05  # a priori, an activation function within a convolution takes this fraction of its time alone
BLOCK = 16  # channels are padded to a multiple of this by most CPU and GPU kernels
LARGEST = 5.0  # absolute f
MOST_CENTERS, NEAR, JITTER = 200, 0.05, 1e-6  # of the basis; distances are in units of LENGTH
ITERATIONS, SHORTEST, CONVERGED = 40, 1e-3, 1e-3

Roofline = Callable[[Sequence[Operator]], np.ndarray]  # seconds of each operator


@dataclass(frozen=True)
class Corrected:
    """Seconds of a network by the corrected roofline."""

    operators: np.ndarray  # of each operator
    start: float  # of the inference itself
    deviation: float  # standard deviation of the logarithm of the sum

    @property
    def total(self) -> float:
        return float(self.operators.sum()) + self.start


@dataclass(frozen=True)
class Corrections:
    """The Gaussian process after observations, f = basis x weights."""

    roofline: Roofline
    start: float  # seconds of starting an inference, before correction
    fuses_silu: bool
    basis: _Basis
    weights: np.ndarray
    sensitivity: np.ndarray  # (observations, weights): derivatives of the logarithms of the latencies
    factor: tuple[np.ndarray, bool]  # Cholesky factor of the covariance of the observations

    def predict(self, network: Sequence[Operator]) -> Corrected:
        parts = _Executed.of([network], self.roofline, self.start, self.fuses_silu)
        columns, rest = self.basis.of(parts)
        seconds = parts.seconds * np.exp(np.clip(columns @ self.weights, -LARGEST, LARGEST))
        fractions = parts.counts.toarray()[0] * seconds
        fractions /= fractions.sum()
        gradient = fractions @ columns
        explained = self.sensitivity @ gradient
        variance = gradient @ gradient - explained @ linalg.cho_solve(self.factor, explained) + fractions**2 @ rest
        by_operator = np.zeros(len(network))
        np.add.at(by_operator, parts.sources, seconds[parts.places[:-1]])
        return Corrected(by_operator, float(seconds[parts.places[-1]]), float(np.sqrt(max(variance, 0) + NOISE**2)))


def fit(
    networks: Sequence[Sequence[Operator]], ms: Sequence[float], roofline: Roofline, start: float, fuses_silu: bool
) -> Corrections:
    """Fits the corrections to latencies of networks in one runtime and precision.

    Args:
        ms: of each network.
        roofline: seconds of operators, without corrections.
        start: seconds of starting an inference, without correction.
        fuses_silu: the runtime computes a SiLU within the convolution before it.
    """
    parts = _Executed.of(networks, roofline, start, fuses_silu)
    basis, observed = _Basis.chosen(parts), np.log(ms) - np.log(1e3)
    columns, _ = basis.of(parts)

    def errors(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Seconds of operators and networks, and errors of the logarithms of the latter."""
        seconds = parts.seconds * np.exp(np.clip(columns @ weights, -LARGEST, LARGEST))
        total = parts.counts @ seconds
        return seconds, total, observed - np.log(total)

    def loss(weights: np.ndarray) -> float:
        squares = (errors(weights)[2] / NOISE) ** 2
        return float(weights @ weights + (FREEDOM + 1) * np.log1p(squares / FREEDOM).sum())

    weights = np.zeros(columns.shape[1])
    for _ in range(ITERATIONS):
        seconds, total, error = errors(weights)
        sensitivity = parts.counts.multiply(seconds).multiply(1 / total[:, None]).tocsr() @ columns
        # Student's t distribution is a normal one whose variance depends on the error (iterated reweighting).
        variances = NOISE**2 * (FREEDOM + (error / NOISE) ** 2) / (FREEDOM + 1)
        factor = linalg.cho_factor(sensitivity @ sensitivity.T + np.diag(variances))
        step = sensitivity.T @ linalg.cho_solve(factor, error + sensitivity @ weights) - weights
        length, before = 1.0, loss(weights)
        while length > SHORTEST and loss(weights + length * step) > before:
            length /= 2
        weights = weights + length * step
        if before - loss(weights) < CONVERGED:
            break
    return Corrections(roofline, start, fuses_silu, basis, weights, sensitivity, factor)


@dataclass(frozen=True)
class _Basis:
    """Functions whose weights are standard normal a priori: a constant of all operators, one of each kind, and for each
    kind the Matérn 3/2 covariance with a few of its operators (subset of regressors; Rasmussen and Williams, section
    8.3.1)."""

    kinds: dict[str, tuple[np.ndarray, np.ndarray]]  # features of the chosen operators, Cholesky factor

    @classmethod
    def chosen(cls, parts: _Executed) -> _Basis:
        kinds = {}
        for kind in np.unique(parts.kinds):
            centers = _spread(parts.features[parts.kinds == kind] / LENGTH)
            kinds[str(kind)] = (
                centers,
                linalg.cholesky(_matern(centers, centers) + JITTER * np.eye(len(centers)), lower=True),
            )
        return cls(kinds)

    def of(self, parts: _Executed) -> tuple[np.ndarray, np.ndarray]:
        """The functions (operators, weights), and the variance of each operator that they leave out."""
        columns, rest = [np.full((len(parts.kinds), 1), ALL)], np.full(len(parts.kinds), KIND**2 + OWN**2)
        for kind, (centers, factor) in self.kinds.items():
            rows = np.flatnonzero(parts.kinds == kind)
            block = np.zeros((len(parts.kinds), len(centers) + 1))
            block[rows, 0] = KIND
            near = linalg.solve_triangular(factor, _matern(centers, parts.features[rows] / LENGTH), lower=True).T
            block[rows, 1:] = OWN * near
            rest[rows] = OWN**2 * np.maximum(1 - (near**2).sum(axis=1), 0)
            columns.append(block)
        return np.concatenate(columns, axis=1), rest


def _spread(points: np.ndarray) -> np.ndarray:
    """Points such that every point is near one of them: each is the farthest from those before it."""
    selected, distance = [0], np.linalg.norm(points - points[0], axis=1)
    while len(selected) < MOST_CENTERS and distance.max() > NEAR:
        selected.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[selected[-1]], axis=1))
    return points[selected]


def _matern(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    distance = np.sqrt(3 * np.maximum(squares, 0))
    result: np.ndarray = (1 + distance) * np.exp(-distance)
    return result


@dataclass(frozen=True)
class _Executed:
    """The distinct operators of networks as a runtime executes them, with fused activation functions as operators of
    their own, and the start of the inference as one more."""

    kinds: np.ndarray
    features: np.ndarray  # (operators, features), logarithms
    seconds: np.ndarray  # by the roofline
    counts: sparse.csr_array  # (networks, operators)
    places: np.ndarray  # index into the operators, of each part of all networks
    sources: np.ndarray  # index into the operators of a network, of each of its parts but the start

    @classmethod
    def of(
        cls, networks: Sequence[Sequence[Operator]], roofline: Roofline, start: float, fuses_silu: bool
    ) -> _Executed:
        index: dict[tuple[Operator, bool], int] = {}
        places, rows, sources = [], [], []
        for row, network in enumerate(networks):
            for source, part in _parts(network, fuses_silu):
                places.append(index.setdefault(part, len(index)))
                rows.append(row)
                sources += [] if source is None else [source]
        operators, fused = zip(*index, strict=True)
        seconds = roofline(operators) * np.where(fused, FUSED, 1.0)
        kinds = np.array([f"{operator.kind} fused" if within else operator.kind for operator, within in index])
        seconds[kinds == START.kind] = start
        counts = sparse.csr_array(
            (np.ones(len(rows)), (rows, places)), shape=(len(networks), len(index))
        )  # equal ones are added
        features = np.array([_features(operator) for operator in operators])
        return cls(kinds, features, seconds, counts, np.array(places), np.array(sources, dtype=int))


START = Operator(0, 1, 0, 0, False, "start", 1)


def _parts(network: Sequence[Operator], fuses_silu: bool) -> list[tuple[int | None, tuple[Operator, bool]]]:
    """(index in the network, (operator, whether it is computed within another one))."""
    parts: list[tuple[int | None, tuple[Operator, bool]]] = []
    for index, operator in enumerate(network):
        parts.append((index, (replace(operator, activation="", fusible=False), operator.fusible and fuses_silu)))
        if operator.activation:
            size = operator.written
            parts.append((index, (Operator(0, 2 * size, 0, 0, False, operator.activation, size), True)))
    return [*parts, (None, (START, False))]


def _features(operator: Operator) -> list[float]:
    read = max(operator.activations - operator.written, 1)
    written, rows = max(operator.written, 1), max(operator.rows, 1)
    outputs, inputs = (
        _padding(size * operator.groups) if operator.weights else 0.0 for size in (rows, operator.columns)
    )
    sizes = [read + written, rows, operator.columns, operator.taps, operator.groups, read / written]
    return [*np.log(sizes), np.log(operator.weights + 1) / 2, 3 * outputs, 3 * inputs]


def _padding(channels: int) -> float:
    return float(np.log(-(-channels // BLOCK) * BLOCK / channels))
