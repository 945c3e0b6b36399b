from __future__ import annotations

import re
from pathlib import Path

import pytest

from compress import pipeline
from compress.config import compose
from compress.errors import UserError


@pytest.mark.parametrize(
    ("stages", "why"),
    [
        (
            "[prune,fintune]",
            "stages=fintune: there is no such stage; did you mean finetune? choose from: train",
        ),
        ("[finetune,prune]", "stages=[finetune, prune]: name each stage at most once and in this order: train"),
        ("[prune,prune]", "name each stage at most once"),
    ],
)
def test_stages_that_are_no_chain_are_refused_before_anything_is_loaded(stages: str, why: str, tmp_path: Path) -> None:
    config = compose(["recipe=drone_nano", f"stages={stages}", "model.weights=null"])
    with pytest.raises(UserError, match=re.escape(why)):
        pipeline.run(config, tmp_path / "run")
