"""Subsets drawn by seed and stratified, so that a part of a data set is about what the whole is.

Files are listed folder by folder, classes often one after the other: the first n images may all be of one class.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence, Set

import numpy as np

BACKGROUND = -1  # stratum of images without an object


def stratified(present: Sequence[Set[int]], count: int, seed: int) -> list[int]:
    """Indices of `count` samples in which every stratum has its share of all samples, to one sample.

    A stratum is a class; of samples with several classes, as in detection, the one that is rarest in the data set; or
    no object at all. `present` are the classes in each sample. The order depends on them and the seed alone and the
    first n indices are themselves stratified, so a smaller subset is part of a larger one.

    Systematic sampling (Cochran, Sampling Techniques, 1977, ch. 8): each stratum is shuffled and its members are
    spread evenly over [0, 1) from a random start; all are taken in the order of their places.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, stratum in enumerate(_strata(present)):
        members[stratum].append(index)
    rng = np.random.default_rng(seed)
    places = np.empty(len(present))
    for stratum in sorted(members):
        shuffled = rng.permutation(members[stratum])
        places[shuffled] = (np.arange(len(shuffled)) + rng.random()) / len(shuffled)
    return [int(index) for index in np.argsort(places, kind="stable")[:count]]


def _strata(present: Sequence[Set[int]]) -> list[int]:
    images = Counter(cls for classes in present for cls in classes)
    return [min(classes, key=lambda cls: (images[cls], cls), default=BACKGROUND) for classes in present]
