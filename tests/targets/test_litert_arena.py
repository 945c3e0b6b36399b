"""Memory of a microcontroller: layouts by hand, as TensorFlow Lite Micro plans them."""

from __future__ import annotations

from compress.targets import litert_arena
from tests.targets.litert_files import model, tensor


def chain(*operators: tuple[list[int], int]) -> list[object]:
    return [("RELU", inputs, [output], {}) for inputs, output in operators]


def test_tensors_that_live_at_the_same_time_lie_side_by_side() -> None:
    # 0 -> 1 -> 2 -> 3, and 0 is added to 2 again; tensor 4 is a weight and needs no memory in the arena.
    tensors = [tensor((1, n), "INT8") for n in (64, 160, 64)] + [tensor((1, 16)), tensor((9999,), constant=True)]
    made = model(tensors, chain(([0, 4], 1), ([1], 2), ([2, 0], 3)), outputs=[3])
    assert litert_arena.arena_bytes(made) == 64 + 160 + 64
    made = model(tensors, chain(([0, 4], 1), ([1], 2), ([2], 3)), outputs=[3])  # now tensor 0 is free before 2 is born
    assert litert_arena.arena_bytes(made) == 160 + 64


def test_of_equal_tensors_the_last_is_placed_first() -> None:
    """TensorFlow Lite Micro's planner sorts from the end. Sizes of digits_cnn, for which it plans the same."""
    tensors = [tensor((1, size), "INT8") for size in (2048, 2048, 2048, 2048, 3200)]
    made = model(tensors, chain(([0], 1), ([1], 2), ([0, 2], 3), ([3], 4)))
    assert litert_arena.arena_bytes(made) == 3200 + 2 * 2048


def test_sizes_are_aligned() -> None:
    made = model([tensor((1, 17), "INT8"), tensor((1, 3))], chain(([0], 1)))
    assert litert_arena.arena_bytes(made) == 32 + 16


def test_integer_kernels_sum_in_a_scratch_buffer() -> None:
    shape, weights = tensor((4,), "INT32", constant=True), tensor((8, 2, 2, 4), "INT8", constant=True)
    image, output = tensor((1, 4, 4, 4), "INT8"), tensor((1, 8, 8, 8), "INT8")
    made = model([shape, weights, image, output], [("TRANSPOSE_CONV", [0, 1, 2], [3], {})], inputs=[2])
    assert litert_arena.arena_bytes(made) == 64 + 512 + 4 * 512
    floats = [shape, tensor((8, 2, 2, 4), constant=True), tensor((1, 4, 4, 4)), tensor((1, 8, 8, 8))]
    made = model(floats, [("TRANSPOSE_CONV", [0, 1, 2], [3], {})], inputs=[2])
    assert litert_arena.arena_bytes(made) == 4 * (64 + 512)
    axes = tensor((2,), "INT32", constant=True)
    made = model([axes, image, tensor((1, 16), "INT8")], [("MEAN", [1, 0], [2], {})], inputs=[1])
    assert litert_arena.arena_bytes(made) == 64 + 16 + 64
