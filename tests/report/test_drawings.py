from __future__ import annotations

from pathlib import Path

from compress.report.drawings import Image, images
from compress.report.run_reader import Disagreement, Drawings

COLUMNS = ("labels", "baseline, torch", "ncnn int8")


def test_disagreements_state_their_number(tmp_path: Path) -> None:
    (tmp_path / "drawings").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "drawings" / name).write_bytes(b"jpeg")
    worst = Disagreement(("b.jpg",) * 3, (None, None, 0.4))
    shown = images(tmp_path, Drawings(COLUMNS, (("a.jpg",) * 3,), (worst,), 200, (None, None, 0.9), "a fraction"))
    assert shown is not None
    plain = Image("data:image/jpeg;base64,anBlZw==")
    assert shown.drawn == [[plain] * 3] and shown.worst == [[plain, plain, Image(plain.url, "agreement 0.40")]]
    assert shown.summary == "Mean agreement with the baseline on 200 images: ncnn int8 0.900. Agreement: a fraction."


def test_older_runs_compared_nothing(tmp_path: Path) -> None:
    assert images(tmp_path, Drawings()) is None
    assert images(tmp_path, Drawings(COLUMNS, (("a.jpg",) * 3,))) is None, "the file is missing"
    (tmp_path / "drawings").mkdir()
    (tmp_path / "drawings" / "a.jpg").write_bytes(b"jpeg")
    shown = images(tmp_path, Drawings(COLUMNS, (("a.jpg",) * 3,)))
    assert shown is not None and (shown.worst, shown.summary) == ([], "")
