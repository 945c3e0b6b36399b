from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compress.capabilities import (
    Checkpointable,
    Evaluable,
    Model,
    Prunable,
    TopK,
    Trainable,
    example_image,
    require,
    tensor_digest,
)
from compress.errors import UserError
from tests.fakes import FakeModel, small_classifier


def test_a_model_is_used_as_what_it_implements() -> None:
    model: Model = FakeModel(small_classifier())
    assert require(model, Evaluable, "data", "x") is model and require(model, Checkpointable, "stages", "x") is model


@pytest.mark.parametrize(("capability", "verb"), [(Prunable, "pruned"), (Trainable, "trained")])
def test_what_a_model_does_not_implement_is_known_before_work(capability: type, verb: str) -> None:
    with pytest.raises(UserError, match=f"the FakeModel for the task classify cannot be {verb} here") as caught:
        require(FakeModel(small_classifier()), capability, "stages", "step")
    assert (caught.value.key, caught.value.value) == ("stages", "step")


def test_top_k_selects_anchors_by_their_best_class_and_then_pairs() -> None:
    # box, scores of two classes, one further value
    rows = np.array(
        [
            [
                [0, 0, 1, 1, 0.9, 0.8, 10],
                [0, 0, 2, 2, 0.1, 0.2, 20],
                [0, 0, 3, 3, 0.7, 0.3, 30],
                [0, 0, 4, 4, 0, 0.75, 40],
            ]
        ],
        np.float32,
    )
    [result] = TopK(classes=2, max_detections=3)(rows)
    # Anchors 0, 3 and 2 are selected. Of their pairs anchor 0 has the two best, since it is confident of both classes.
    np.testing.assert_allclose(
        result, [[0, 0, 1, 1, 0.9, 0, 10], [0, 0, 1, 1, 0.8, 1, 10], [0, 0, 4, 4, 0.75, 1, 40]], rtol=1e-6
    )


def test_top_k_leaves_outputs_after_the_first_alone() -> None:
    rows, masks = np.random.default_rng(0).random((2, 5, 4 + 3 + 2), dtype=np.float32), np.ones((2, 2, 4, 4))
    select = TopK(classes=3, max_detections=2)
    selected, same = select((rows, masks))
    assert np.array_equal(selected, select(rows)) and selected.shape == (2, 2, 6 + 2) and same is masks


def test_top_k_of_fewer_anchors_than_detections_returns_as_many_as_there_are() -> None:
    rows = np.random.default_rng(0).random((2, 3, 4 + 5)).astype(np.float32)
    result = TopK(classes=5, max_detections=300)(rows)
    assert result.shape == (2, 3, 6) and (np.diff(result[..., 4], axis=1) <= 0).all()
    np.testing.assert_allclose(result[:, 0, 4], rows[..., 4:].max(axis=(1, 2)))


def test_the_example_image_is_equal_at_every_call() -> None:
    image = example_image(2, 3, 8)
    assert image.shape == (2, 3, 8, 8) and image.dtype == torch.float32 and 0 <= image.min() < image.max() < 1
    assert torch.equal(image, example_image(2, 3, 8)) and not torch.equal(image[0], image[1])


def test_the_digest_covers_names_shapes_types_and_values() -> None:
    def net(value: float = 1.0, name: str = "0", **options: torch.dtype) -> nn.Module:
        layer = nn.Linear(2, 1, bias=False, **options)
        nn.init.constant_(layer.weight, value)
        return nn.ModuleDict({name: layer})

    assert tensor_digest(net()) == tensor_digest(net())
    others = [net(2.0), net(name="1"), net(dtype=torch.float64), nn.ModuleDict({"0": nn.Linear(1, 2, bias=False)})]
    assert len({tensor_digest(each) for each in (net(), *others)}) == 5
