"""The stages, in the order in which they run. A new stage is one file and one row here."""

from compress.stages import export, finetune, prune, quantize, reconstruct, train
from compress.stages.context import Context
from compress.stages.stage import Stage

__all__ = ["STAGES", "Context", "Stage"]

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (train.STAGE, prune.STAGE, reconstruct.STAGE, finetune.STAGE, quantize.STAGE, export.STAGE)
}
