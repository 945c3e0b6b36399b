"""Peak size of the activations of a network, from the lifetimes of their memory."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(eq=False)
class Life:
    """Lifetime of the memory of an activation. Times are numbers of operators in their order, from 1; inputs of the
    network are born at 0."""

    size: int  # bytes
    born: int  # number of the operator that writes it
    last_use: int  # number of the last operator that reads it; of outputs of the network, the last of all


def peak_bytes(lives: Iterable[Life]) -> int:
    """Largest number of bytes alive at one time."""
    changes: Counter[int] = Counter()
    for life in lives:
        changes[life.born] += life.size
        changes[life.last_use + 1] -= life.size
    return max(itertools.accumulate(changes[time] for time in sorted(changes)), default=0)


def peak_bytes_in_place(lives: Iterable[Life], elementwise: Iterable[tuple[Life, Sequence[Life]]]) -> int:
    """The same if elementwise operators write over an input, as runtimes compute them in place or fuse them into the
    operator before them: over the first input of the same size that no later operator reads and that is no input of the
    network.

    Args:
        lives: of all activations.
        elementwise: (output, inputs) of every elementwise operator, in order of execution.
    """
    memory = {life: Life(life.size, life.born, life.last_use) for life in lives}
    for output, inputs in elementwise:
        for each in inputs:
            taken = memory[each]
            if taken.size == output.size and taken.last_use == output.born and taken.born > 0:
                taken.last_use = output.last_use
                memory[output] = taken
                break
    return peak_bytes({id(life): life for life in memory.values()}.values())
