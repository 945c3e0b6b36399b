"""Instance segmentation. Models can be pruned, saved and exported; data, loss and metric are not implemented."""

from compress.tasks.task import Task

SEGMENT = Task("segment")
