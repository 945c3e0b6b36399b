from __future__ import annotations

from compress.report.run_reader import TrainingPoint
from compress.report.training_curves import charts, legend


def test_each_training_has_a_chart_with_its_parts_of_the_loss() -> None:
    train = [TrainingPoint("train", step, 1 / step, 0.1, images_per_second=100.0) for step in (1, 2, 3)]
    tuned = [TrainingPoint("finetune", step, 2.0, 0.1, task_loss=0.5, distillation_loss=1.5) for step in (1, 2)]
    first, second = charts([*train, *tuned, train[2]])
    assert (first.heading, first.note) == ("train", "3 steps, last loss 0.3333, median 100 images/s")
    assert first.drawing.count("<polyline") == 2 and first.drawing.count('class="hit"') == 3
    assert (second.heading, second.note) == ("finetune", "2 steps, last loss 2")
    assert second.drawing.count("<polyline") == 4 and "task loss 0.5\ndistillation loss 1.5" in second.drawing


def test_no_training_no_chart() -> None:
    assert charts([]) == []


def test_the_legend_names_the_curves_that_exist() -> None:
    alone = TrainingPoint("train", 1, 2.0, 0.1)
    assert legend([alone]) == [("loss, learning rate", "1")]
    distilled = TrainingPoint("finetune", 1, 2.0, 0.1, distillation_loss=1.5)
    assert legend([alone, distilled]) == [("loss, learning rate", "1"), ("distillation loss", "3")]
    assert legend([]) == []
