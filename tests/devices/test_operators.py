"""The costs of published networks, and the table that holds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.devices import operators, published_latency
from compress.devices.operators import Operator


def test_every_published_network_has_operators_with_its_flops() -> None:
    networks = operators.published_networks()
    for rows in published_latency.rows().values():
        for row in rows:
            gflops = 2e-9 * sum(operator.macs for operator in networks[row["model"]])
            assert gflops == pytest.approx(float(row["gflops"]), abs=6e-4)


def test_a_written_table_is_read_back(tmp_path: Path) -> None:
    first, second = Operator(10, 20, 5, 4, False), Operator(0, 8, 0, 0, True)
    operators.write([("a", [first, second, first]), ("b", [second])], tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text().count("\n") == 4
    assert operators.read(tmp_path / "table.csv") == {"a": (first, first, second), "b": (second,)}
