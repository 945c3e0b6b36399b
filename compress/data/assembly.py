"""`assemble`: makes a `DataSet` of the samples that a format's loader has read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compress.config import DataConfig
from compress.data.dataset import DataSet, Split, hold_out, unlabelled
from compress.data.files import check_disjoint, fingerprint
from compress.data.sample import Sample
from compress.tasks import SupervisedTask
from compress.tasks.augmentation import Augmentation


def assemble(
    task: SupervisedTask,
    classes: tuple[str, ...],
    contents: Mapping[str, Sequence[Sample]],
    config: DataConfig,
    imgsz: int,
    channels: int,
    seed: int,
    *,
    chosen: tuple[Sequence[Sample], Sequence[Sample]] | None = None,
    augmentation: Augmentation | None = None,
) -> DataSet:
    """Returns the data set, without labels if `config.labels` is false, after checking that its splits do not overlap.

    Args:
        contents: all samples by split: `validation`, usually `train` (without it the data can only be used for
            evaluation), and others. They determine the fingerprint.
        chosen: training and calibration samples; None: the latter are held out of `train` by `seed`.
        augmentation: random changes allowed in training; None: the defaults of `Augmentation`.

    Raises:
        UserError: an image of an evaluation split is also used in training or calibration.
    """
    if not config.labels:
        contents = {name: unlabelled(samples) for name, samples in contents.items()}
        chosen = chosen and (unlabelled(chosen[0]), unlabelled(chosen[1]))
    train, calibration = chosen or hold_out(contents.get("train", []), config.calibration_images, seed)
    evaluation = {name: samples for name, samples in contents.items() if name not in ("train", "calibration")}
    check_disjoint([*train, *calibration], evaluation)
    policy = augmentation or Augmentation()
    splits = {
        name: Split(name, samples, imgsz, channels, task, policy)
        for name, samples in {**evaluation, "train": train, "calibration": calibration}.items()
    }
    return DataSet(
        task=task,
        classes=classes,
        train=splits.pop("train"),
        calibration=splits.pop("calibration"),
        validation=splits.pop("validation").subset(config.validation_images, seed),
        fingerprint=fingerprint(classes, contents),
        extra=splits,
    )
