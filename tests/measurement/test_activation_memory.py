from __future__ import annotations

from compress.measurement.activation_memory import Life, peak_bytes, peak_bytes_in_place


def test_the_peak_is_the_largest_sum_alive_at_one_time() -> None:
    lives = [Life(10, 0, 1), Life(20, 1, 2), Life(5, 2, 3)]
    assert peak_bytes(lives) == 30  # at operator 1: its input and its output
    assert peak_bytes([]) == 0


def test_elementwise_operators_write_over_an_input_that_is_not_needed_any_more() -> None:
    image, conv, relu, total = Life(4, 0, 1), Life(10, 1, 2), Life(10, 2, 3), Life(10, 3, 3)
    lives = [image, conv, relu, total]
    assert peak_bytes(lives) == 20
    assert peak_bytes_in_place(lives, [(relu, [conv]), (total, [relu])]) == 14
    conv.last_use = 3  # the sum reads it too
    assert peak_bytes(lives) == 30
    assert peak_bytes_in_place(lives, [(relu, [conv]), (total, [conv, relu])]) == 20


def test_inputs_and_other_sizes_are_kept() -> None:
    image, relu, small = Life(10, 0, 1), Life(10, 1, 2), Life(4, 2, 2)
    assert peak_bytes_in_place([image, relu, small], [(relu, [image]), (small, [relu])]) == 20
