"""Stratified random subsets, which keep the class distribution of the data set.

Taking the first n files instead can select a single class, since files are listed folder by folder.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence, Set

import numpy as np

BACKGROUND = -1  # stratum of images without objects


def stratified(present: Sequence[Set[int]], count: int, seed: int) -> list[int]:
    """Draws `count` samples in which each stratum has the same fraction as in the data set, to within one sample.

    The stratum of a sample is its class, or, of several classes (detection), the one that is rarest in the data set.
    Samples without objects are a stratum of their own. The first n indices are themselves stratified, so a smaller
    subset is contained in a larger one.

    Systematic sampling (Cochran, Sampling Techniques, 1977, ch. 8): each stratum is shuffled and its members get evenly
    spaced positions in [0, 1) with a random offset. Samples are returned in the order of their positions.

    Args:
        present: the classes that occur in each sample.

    Returns:
        Indices into `present`; they depend only on `present`, `count` and `seed`.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, stratum in enumerate(_strata(present)):
        members[stratum].append(index)
    rng = np.random.default_rng(seed)
    positions = np.empty(len(present))
    for stratum in sorted(members):
        shuffled = rng.permutation(members[stratum])
        positions[shuffled] = (np.arange(len(shuffled)) + rng.random()) / len(shuffled)
    return [int(index) for index in np.argsort(positions, kind="stable")[:count]]


def _strata(present: Sequence[Set[int]]) -> list[int]:
    images = Counter(cls for classes in present for cls in classes)
    return [min(classes, key=lambda cls: (images[cls], cls), default=BACKGROUND) for classes in present]
