"""The order in which quantization schemes are tried."""

from __future__ import annotations

import pytest

from compress.targets.scheme import Scheme, ordered

FAST, SAFE, SLOW = Scheme("fast"), Scheme("safe", saturation_safe=True), Scheme("slow", fallback=True)
OFFERED = (FAST, SAFE, SLOW)


@pytest.mark.parametrize(
    ("saturates", "portable", "wanted"),
    [
        (False, False, [FAST, SLOW, SAFE]),
        (True, False, [SAFE, FAST, SLOW]),
        (False, True, [SAFE]),
        (True, True, [SAFE]),
    ],
)
def test_safe_schemes_come_first_where_sums_overflow_and_last_elsewhere(
    saturates: bool, portable: bool, wanted: list[Scheme]
) -> None:
    assert ordered(OFFERED, saturates=saturates, portable=portable) == wanted


def test_a_portable_file_takes_any_scheme_where_none_is_safe() -> None:
    assert ordered((FAST, SLOW), saturates=True, portable=True) == [FAST, SLOW]
