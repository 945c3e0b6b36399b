from __future__ import annotations

from compress import tasks
from compress.tasks import SupervisedTask
from compress.tasks.obb import OBB


def test_the_task_is_known_by_ultralytics_name_and_cannot_be_trained_or_evaluated() -> None:
    assert tasks.TASKS["obb"] is OBB
    assert not isinstance(OBB, SupervisedTask)
