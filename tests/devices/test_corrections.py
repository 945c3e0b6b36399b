"""Corrections of the roofline, on latencies that a known law makes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from compress.devices import corrections
from compress.devices.operators import Operator

START = 2e-5


def convolution(channels: int, side: int, kind: str = "Conv", activation: str = "") -> Operator:
    values, taps = channels * side**2, 9
    columns, groups = (1, channels) if kind == "DepthwiseConv" else (channels, 1)
    macs, weights = values * columns * taps, channels * columns * taps
    rows = channels // groups
    return Operator(macs, 2 * values, weights, rows, False, kind, values, columns, groups, taps, activation)


def roofline(operators: Sequence[Operator]) -> np.ndarray:
    return np.array([2 * each.macs / 1e11 + 4 * each.activations / 1e10 for each in operators])


def law(network: Sequence[Operator]) -> float:
    """Milliseconds: depthwise convolutions take three times as long as by the roofline, small maps more than large."""
    factors = [3.0 if each.kind == "DepthwiseConv" else 1 + 100 / (each.written / each.rows) for each in network]
    return float(1e3 * (roofline(network) @ factors + START))


def networks(seed: int, count: int) -> list[list[Operator]]:
    random = np.random.default_rng(seed)
    return [
        [
            convolution(int(random.choice([16, 32, 64, 128])), int(random.integers(8, 60)), str(kind))
            for kind in random.choice(["Conv", "DepthwiseConv"], size=random.integers(2, 8))
        ]
        for _ in range(count)
    ]


def fitted(count: int = 60) -> corrections.Corrections:
    small = networks(0, count)
    return corrections.fit(small, [law(each) for each in small], roofline, START, fuses_silu=False)


def test_unseen_networks_are_predicted() -> None:
    model, unseen = fitted(), networks(1, 20)
    errors = [1e3 * model.predict(each).total / law(each) - 1 for each in unseen]
    plain = [1e3 * (roofline(each).sum() + START) / law(each) - 1 for each in unseen]
    assert np.abs(errors).max() < 0.1 < 0.2 < np.abs(plain).mean()


def test_operators_and_start_add_up() -> None:
    [network] = networks(2, 1)
    predicted = fitted().predict(network)
    assert predicted.operators.shape == (len(network),) and (predicted.operators > 0).all()
    assert predicted.total == pytest.approx(predicted.operators.sum() + predicted.start)


def test_the_deviation_is_smaller_near_what_was_measured() -> None:
    model = fitted()
    near, far = [convolution(32, 30)] * 3, [Operator(0, 2 * 32 * 900, 0, 0, False, "Softmax", 32 * 900)] * 3
    assert model.predict(near).deviation < 0.15 < model.predict(far).deviation


def test_one_wrong_latency_changes_little() -> None:
    small, unseen = networks(0, 60), networks(1, 20)
    ms = [law(each) for each in small]
    model = corrections.fit(small, [3 * ms[0], *ms[1:]], roofline, START, fuses_silu=False)
    assert max(abs(1e3 * model.predict(each).total / law(each) - 1) for each in unseen) < 0.15


def test_an_activation_within_a_convolution_is_part_of_its_time() -> None:
    plain, active = [convolution(64, 20)], [convolution(64, 20, activation="Relu")]
    model = fitted()
    assert 1 < model.predict(active).total / model.predict(plain).total < 1.2


def test_a_silu_that_the_runtime_fuses_is_nearly_free() -> None:
    values = 64 * 400
    silu = [Operator(0, 2 * values, 0, 0, True, "Sigmoid", values), Operator(0, 3 * values, 0, 0, True, "Mul", values)]
    small = networks(0, 30)
    ms = [law(each) for each in small]
    apart, fused = (
        corrections.fit(small, ms, roofline, START, fuses_silu=fuses).predict([convolution(64, 20), *silu])
        for fuses in (False, True)
    )
    assert fused.operators[1:].sum() < 0.2 * apart.operators[1:].sum()
