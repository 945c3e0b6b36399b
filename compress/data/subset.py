"""Subsets drawn by seed and stratified, so that a part of a data set is about what the whole is.

Files are listed folder by folder, classes often one after the other: the first n images may all be of one class.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from compress.data.sample import Sample

BACKGROUND = -1  # stratum of images without an object


def stratified(samples: Sequence[Sample], count: int, seed: int) -> list[int]:
    """Indices of `count` samples in which every stratum has its share of all samples, to one sample.

    A stratum is a class, in detection the class that is rarest in the data set of those in the image, or no object at
    all. The order depends on the samples and the seed alone and the first n indices are themselves stratified, so a
    smaller subset is part of a larger one.

    Systematic sampling (Cochran, Sampling Techniques, 1977, ch. 8): each stratum is shuffled and its members are
    spread evenly over [0, 1) from a random start; all are taken in the order of their places.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, stratum in enumerate(_strata(samples)):
        members[stratum].append(index)
    rng = np.random.default_rng(seed)
    places = np.empty(len(samples))
    for stratum in sorted(members):
        shuffled = rng.permutation(members[stratum])
        places[shuffled] = (np.arange(len(shuffled)) + rng.random()) / len(shuffled)
    return [int(index) for index in np.argsort(places, kind="stable")[:count]]


def _strata(samples: Sequence[Sample]) -> list[int]:
    present = [
        {sample.label} if isinstance(sample.label, int) else set(sample.label[:, 0].astype(int).tolist())
        for sample in samples
    ]
    images = Counter(cls for classes in present for cls in classes)
    return [min(classes, key=lambda cls: (images[cls], cls), default=BACKGROUND) for classes in present]
