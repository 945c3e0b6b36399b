"""Tasks: what a model is for. One file per task holds everything that depends on the task; `TASKS` lists them.

`task.target` names a task of the user's own by import path: a subclass of `SupervisedTask`.
"""

from dataclasses import replace

from compress import user_code
from compress.errors import UserError
from compress.tasks.classify import CLASSIFY
from compress.tasks.detect import DETECT
from compress.tasks.obb import OBB
from compress.tasks.pose import POSE
from compress.tasks.segment import SEGMENT
from compress.tasks.task import Batch, PlainNetworkTask, Predictions, SupervisedTask, Task

__all__ = [
    "CLASSIFY", "DETECT", "OBB", "POSE", "SEGMENT", "TASKS", "Batch", "PlainNetworkTask", "Predictions",
    "SupervisedTask", "Task", "check_same", "load", "of",
]  # fmt: skip


def load(path: str, key: str = "task.target") -> SupervisedTask:
    """A user's own task by import path: an instance of `SupervisedTask`, or a class or function that makes one.

    Raises:
        UserError: it cannot be imported, raises, or is no such task.
    """
    task = user_code.load(key, path, {}, "an instance of compress.tasks.SupervisedTask, or a callable that makes one")
    if not isinstance(task, SupervisedTask):
        raise UserError(key, path, f"is a {type(task).__name__}, not a compress.tasks.SupervisedTask")
    return replace(task, path=path)


def of(name: str, trust: bool) -> PlainNetworkTask:
    """The task that a checkpoint names: one of `TASKS`, or with `trust` an import path.

    Raises:
        UserError: without `trust`, a task that this package does not provide.
    """
    task = TASKS.get(name)
    if task is None and not trust:
        why = "its model.json names a task outside this package, which would be imported: set model.trust=true"
        raise UserError("checkpoint", name, why)
    task = load(name, "checkpoint") if task is None else task
    if not isinstance(task, PlainNetworkTask):
        raise UserError("checkpoint", name, "is no task for a plain network")
    return task


TASKS: dict[str, Task] = {task.name: task for task in (DETECT, CLASSIFY, SEGMENT, POSE, OBB)}


def check_same(model: Task, data: Task | None) -> None:
    """Raises UserError where the model and the data are for different tasks; without data everything agrees."""
    if data is None or model.name == data.name:
        return
    supervised = isinstance(model, SupervisedTask)
    also = "" if supervised else ": such models can be pruned and exported only"
    raise UserError("data", data.name, f"the data is for {data.name}, the model for {model.name}{also}")
