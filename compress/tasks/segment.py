"""Instance segmentation. Models are pruned, saved and exported; data, loss and metric are not implemented yet."""

from compress.tasks.task import Task

SEGMENT = Task("segment")
