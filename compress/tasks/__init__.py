"""Tasks, such as detection and classification. Everything that depends on a task is in its module; `TASKS` lists them.

`task.target` is the import path of a user-defined task, an instance of a subclass of `SupervisedTask`.
"""

from dataclasses import replace

from compress import user_code
from compress.errors import UserError
from compress.tasks.classify import CLASSIFY
from compress.tasks.detect import DETECT
from compress.tasks.instances import Instances, InstanceTask
from compress.tasks.obb import OBB
from compress.tasks.outputs import Outputs
from compress.tasks.pose import POSE, Pose
from compress.tasks.segment import SEGMENT
from compress.tasks.semantic import SEMANTIC
from compress.tasks.task import CLASS_WEIGHTS, Batch, PlainNetworkTask, Predictions, SupervisedTask, Task

__all__ = [
    "CLASSIFY", "CLASS_WEIGHTS", "DETECT", "OBB", "POSE", "SEGMENT", "SEMANTIC", "TASKS", "Batch", "InstanceTask",
    "Instances", "Outputs", "PlainNetworkTask", "Predictions", "SupervisedTask", "Task", "check_same", "load", "of",
]  # fmt: skip


def load(path: str, key: str = "task.target") -> SupervisedTask:
    """Loads a user-defined task from an import path: a `SupervisedTask`, or a class or function that returns one.
    Raises UserError if it cannot be imported, raises, or is not a `SupervisedTask`."""
    task = user_code.load(key, path, {}, "an instance of compress.tasks.SupervisedTask, or a callable that returns one")
    if not isinstance(task, SupervisedTask):
        raise UserError(key, path, f"is a {type(task).__name__}, not a compress.tasks.SupervisedTask")
    return replace(task, path=path)


def of(name: str, trust: bool) -> PlainNetworkTask:
    """Returns the task that a checkpoint names: a key of `TASKS` or, only with `trust`, an import path. Raises
    UserError for an import path without `trust`, and for a task that is not a `PlainNetworkTask`."""
    if name not in TASKS and not trust:
        why = "its model.json names a task outside this package, which would be imported: set model.trust=true"
        raise UserError("checkpoint", name, why)
    task = TASKS.get(name) or load(name, "checkpoint")
    if not isinstance(task, PlainNetworkTask):
        raise UserError("checkpoint", name, "is not a task for plain networks")
    return task


TASKS: dict[str, Task] = {task.name: task for task in (DETECT, CLASSIFY, SEGMENT, POSE, OBB, SEMANTIC)}


def check_same(model: Task, data: Task | None) -> None:
    """Raises UserError if model and data are for different tasks, or for different keypoints. `data` is None if there
    is no data."""
    if data is not None and model.name != data.name:
        raise UserError("data", data.name, f"the data is for {data.name}, the model for {model.name}")
    if isinstance(model, Pose) and isinstance(data, Pose) and model.keypoints != data.keypoints:
        own, other = ("{} keypoints of {} numbers".format(*task.keypoints) for task in (model, data))
        raise UserError("data", data.name, f"the data has {other}, the model predicts {own}: use a model for such data")
