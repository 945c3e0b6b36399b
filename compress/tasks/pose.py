"""Keypoint detection. Models can be pruned, saved and exported; data, loss and metric are not implemented."""

from dataclasses import dataclass

from compress.tasks.task import Task, box_output_kind


@dataclass(frozen=True)
class Pose(Task):
    """Raw outputs begin with boxes and scores, as those of detectors do."""

    def output_kind(self, *, end_to_end: bool, postprocessed: bool) -> str:
        return f"{self.name}/{box_output_kind(end_to_end=end_to_end, postprocessed=postprocessed)}"


POSE = Pose("pose")
