from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from compress.training.class_weights import normalised

LABELS = [0] * 6 + [1] * 3 + [2]


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    expected = compute_class_weight("balanced", classes=np.arange(3), y=np.array(LABELS))
    np.testing.assert_allclose(normalised(None, iter(LABELS), 3), expected, rtol=1e-6)


@pytest.mark.parametrize("weights", [None, [1.0, 1, 1], [5.0, 1, 100]])
def test_their_mean_over_the_images_is_one(weights: list[float] | None) -> None:
    result = normalised(weights, LABELS, 3)
    assert result.dtype == np.float32 and result[LABELS].mean() == pytest.approx(1)
    if weights is not None:
        np.testing.assert_allclose(result / result[0], np.array(weights) / weights[0], rtol=1e-6)


def test_a_class_without_images_changes_nothing() -> None:
    np.testing.assert_allclose(normalised(None, LABELS, 4)[:3], normalised(None, LABELS, 3))
    assert np.isfinite(normalised(None, LABELS, 4)).all()
