"""A second phase of fine-tuning has the teacher and the learning rate of the first, or says why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import compress
from compress import checkpoint, data, finetuning, lineage, models
from compress.capabilities import Model
from compress.config import Config, Family, ModelConfig, compose
from compress.data import DataSet
from compress.errors import UserError
from compress.models import build
from compress.models.plain_network import PlainNetwork
from compress.product import Product
from compress.stages import finetune, train
from tests.models.toy import plain

SMALL = "compress.examples.small_cnn.SmallCNN"
SHORT = ["recipe=digits", "model=checkpoint", "stages=[finetune]", "targets=[]", "data.validation_images=50"]
SHORT += ["finetune.images=64", "finetune.learning_rate=null", "budget.flops=null", "threads=1"]
SHORT += ["force=true"]  # so little training teaches nothing


def small(**given: Any) -> PlainNetwork:
    args = {"channels": 1, **given.pop("args", {})}
    return plain(replace(ModelConfig(Family.module, target=SMALL, args=args, channels=1, imgsz=16), **given))


@pytest.fixture(scope="module")
def unpruned() -> PlainNetwork:
    return small()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unpruned: PlainNetwork) -> Path:
    """Holds `pruned`, which remembers what it was pruned from, and that: `elsewhere`."""
    monkeypatch.chdir(tmp_path)
    checkpoint.save(unpruned, tmp_path / "elsewhere")
    remembered = {
        "identity": unpruned.identity(), "flops": compress.get_flops(unpruned), "imgsz": 16,
        "path": str(tmp_path / "elsewhere"),
    }  # fmt: skip
    checkpoint.save(compress.prune(unpruned, "40%"), tmp_path / "pruned", remembered)
    return tmp_path


def opened(place: Path, *overrides: str) -> tuple[Product, Config, DataSet]:
    config: Config = models.resolve(compose([*SHORT, f"model.path={place / 'pruned'}", *overrides]))
    dataset = data.load(config.data, *config.model.input, config.seed)
    model = build(config.model, dataset.classes, dataset.task)
    product = Product(model, lineage.recorded_reference(config.model, model))
    finetune.check(product, config, dataset)
    return product, config, dataset


def teacher(product: Product, config: Config) -> Model:
    result = lineage.teacher(product, config)
    assert result is not None
    return result


def weight(product: Product, config: Config) -> float | None:
    return lineage.with_distillation_weight(config, product.reference).distillation


def rate(product: Product, config: Config) -> float:
    before = lineage.reference_flops(product)
    return finetuning.learning_rate(product.model, lineage.teacher(product, config), before)


def test_a_checkpoints_own_reference_teaches_and_sets_the_learning_rate(place: Path, unpruned: PlainNetwork) -> None:
    product, config, _ = opened(place)
    assert teacher(product, config).identity() == unpruned.identity() and weight(product, config) == 1.0
    before = lineage.reference_flops(product)
    assert before == compress.get_flops(unpruned)
    expected = finetuning.RATE * before / compress.get_flops(product.model)
    assert rate(product, config) == pytest.approx(expected) and expected > 2 * finetuning.RATE
    assert lineage.cache_parts(teacher(product, config), before) != lineage.cache_parts(None, before)


def test_the_channels_that_were_kept_are_recorded(place: Path, unpruned: PlainNetwork) -> None:
    reference = lineage.reference_for_pruning(Product(unpruned), compose(["recipe=digits"]), Path("unused"))
    first = lineage.with_kept(reference, unpruned, {"stem.0": [0, 2, 5]})
    again = lineage.with_kept(first, small(), {"stem.0": [0, 2], "head": [1]})
    assert again.kept == {"stem.0": [0, 5], "head": [1]}
    product, _, _ = opened(place)
    assert product.reference is not None and product.reference.kept is None  # its checkpoint is older
    assert lineage.with_kept(product.reference, product.model, {"stem.0": [0]}).kept is None
    pruned = product.model
    assert isinstance(pruned, PlainNetwork)
    for kept, read in [
        ({"stem.0": [0, 2]}, {"stem.0": [0, 2]}), ({"stem.0": [2, 0]}, None), ({"stem.0": []}, None),
        ({"stem.0": [-1]}, None), ({"stem.0": ["a"]}, None), ([1], None), (None, None),
    ]:  # fmt: skip
        checkpoint.save(pruned, place / "pruned", {**(lineage.as_dict(product.reference) or {}), "kept": kept})
        recorded = opened(place)[0].reference
        assert recorded is not None and recorded.kept == read and recorded.model is not None


def test_a_named_teacher_takes_its_place(place: Path, unpruned: PlainNetwork) -> None:
    checkpoint.save(small(), place / "other")
    product, config, _ = opened(place, f"finetune.teacher={place / 'other'}")
    assert teacher(product, config).identity() != unpruned.identity() and weight(product, config) == 1.0
    # A checkpoint that remembers nothing: its teacher sets the rate.
    assert isinstance(product.model, PlainNetwork)
    checkpoint.save(product.model, place / "pruned")
    product, config, _ = opened(place, f"finetune.teacher={place / 'other'}")
    assert product.reference is None and lineage.reference_flops(product) is None
    assert rate(product, config) > 2 * finetuning.RATE


def test_a_run_folder_that_was_moved_keeps_its_reference(place: Path, unpruned: PlainNetwork) -> None:
    (place / "elsewhere").rename(place / lineage.FOLDER)
    product, config, _ = opened(place)
    assert teacher(product, config).identity() == unpruned.identity()


@pytest.mark.parametrize("spoil", ["another model", "gone", "damaged"])
def test_without_the_reference_nothing_is_distilled_but_the_rate_stays(
    place: Path, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = rate(*opened(place)[:2])
    if spoil == "another model":
        checkpoint.save(small(), place / "elsewhere")
    elif spoil == "gone":
        (place / "elsewhere").rename(place / "hidden")
    else:
        (place / "elsewhere" / checkpoint.TENSORS).write_bytes(b"")
    product, config, _ = opened(place)
    assert lineage.teacher(product, config) is None and weight(product, config) == 0.0
    assert rate(product, config) == pytest.approx(expected)
    assert spoil == "gone" or "elsewhere" in caplog.text
    wanted = r"^finetune\.distillation=0\.5: .*finetune\.teacher .*, or finetune\.distillation=0$"
    with pytest.raises(UserError, match=wanted):
        opened(place, "finetune.distillation=0.5")


def test_distillation_can_be_switched_off_and_train_has_none(place: Path) -> None:
    for overrides in ([], [f"finetune.teacher={place / 'elsewhere'}"]):
        product, config, dataset = opened(place, "finetune.distillation=0", *overrides)
        assert weight(product, config) == 0.0
    with pytest.raises(UserError, match=r"^train\.teacher"):
        train.check(product, compose(["recipe=digits", "train.teacher=x"]), dataset)


def test_a_run_that_prunes_distils_only_where_it_is_told(unpruned: PlainNetwork) -> None:
    reference = lineage.reference_for_pruning(
        Product(unpruned), compose(["recipe=digits", "stages=[prune]"]), Path("unused")
    )
    config = compose(["recipe=digits"])
    assert lineage.with_distillation_weight(config, reference).distillation == 0.0


@pytest.mark.parametrize(
    "given, why",
    [
        ({"args": {"classes": 7}}, "number of classes, not 7 and 10"),
        ({"args": {"channels": 3}, "channels": 3}, "input channels, not 3 and 1"),
        ({"imgsz": 32}, "input size, not 32 and 16"),
    ],
)
def test_a_teacher_must_suit_the_model(place: Path, given: dict[str, Any], why: str) -> None:
    checkpoint.save(small(**given), place / "other")
    with pytest.raises(UserError, match=rf"^finetune\.teacher={place / 'other'}: .* the same {why}"):
        opened(place, f"finetune.teacher={place / 'other'}")


def test_a_teacher_of_another_task_and_none_at_all(place: Path) -> None:
    with pytest.raises(UserError, match=r"^finetune\.teacher=drone_nano: .* the same task, not detect"):
        opened(place, "finetune.teacher=drone_nano")
    with pytest.raises(UserError, match=r"^finetune\.teacher=nowhere: no such file"):
        opened(place, "finetune.teacher=nowhere")


def test_detectors_with_other_heads_do_not_teach() -> None:
    with pytest.raises(UserError, match=r"^finetune\.teacher=drone_nano: .* the same kind of network"):
        lineage.load_teacher("drone_nano", build(ModelConfig(name="yolo11n", imgsz=256), tuple("abcde")), ModelConfig())
    taught = build(ModelConfig(name="yolo26n", imgsz=256), tuple("abcde"))
    assert lineage.load_teacher("drone_nano", taught, ModelConfig()).imgsz == 256


def test_a_second_phase_is_one_run(place: Path) -> None:
    compress.run(compose([*SHORT, f"model.path={place / 'pruned'}"]), place / "run")
    said = checkpoint.describe(place / "run" / "pruned")["reference"]
    assert said["path"] == str(place / "elsewhere")  # and a third one knows it too


def test_without_labels_the_weight_is_1_unless_it_is_set() -> None:
    config = compose(["recipe=digits", "data.labels=false", "stages=[prune,finetune]"])
    assert lineage.with_distillation_weight(config, None).distillation == 1.0
    config = compose(["recipe=digits", "data.labels=false", "stages=[prune,finetune]", "finetune.distillation=2"])
    assert lineage.with_distillation_weight(config, None).distillation == 2.0
