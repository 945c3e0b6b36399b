from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from compress import cache
from compress.cache import ENTRY, Cache
from compress.digest import digest
from compress.errors import UserError

ROOT = Path(__file__).parents[1]


class Maker:
    """Writes `product` and counts its calls."""

    def __init__(self, text: str = "made") -> None:
        self.text, self.calls = text, 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "product").write_text(self.text)


@pytest.fixture
def store(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_miss_then_hit(store: Cache) -> None:
    first, second = Maker("first"), Maker("second")
    made, cached = store.fetch("prune", {"ratio": 0.3, "seed": 0}, first)
    assert (cached, first.calls) == (False, 1)
    result, cached = store.fetch("prune", {"seed": 0, "ratio": 0.3}, second)  # the order of keys does not matter
    assert (result, cached, second.calls) == (made, True, 0)
    assert (result / "product").read_text() == "first"
    entry = json.loads((result / ENTRY).read_text())
    assert (entry["stage"], entry["parts"]) == ("prune", {"ratio": 0.3, "seed": 0})


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        ("finetune", {"seed": 0, "model": "a"}),
        ("prune", {"seed": 1, "model": "a"}),
        ("prune", {"seed": 0, "model": "b"}),
        ("prune", {"seed": 0, "model": "a", "version": 2}),
        ("prune", {"seed": 0}),
    ],
)
def test_other_inputs_are_another_entry(store: Cache, stage: str, parts: dict[str, object]) -> None:
    known, _ = store.fetch("prune", {"seed": 0, "model": "a"}, Maker())
    folder, cached = store.fetch(stage, parts, Maker())
    assert folder != known
    assert cached is False


def test_digest_does_not_depend_on_order() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest({"a": 1}) != digest({"a": "1"})


def test_an_unfinished_entry_is_handed_to_make_again(store: Cache) -> None:
    def die(folder: Path) -> None:
        (folder / "half").write_text("epoch 3")
        raise KeyboardInterrupt

    def go_on(folder: Path) -> None:
        assert (folder / "half").read_text() == "epoch 3"
        (folder / "product").write_text("whole")

    with pytest.raises(KeyboardInterrupt):
        store.fetch("train", {"seed": 0}, die)
    [unfinished] = store.entries()
    assert not (unfinished / ENTRY).exists()
    folder, cached = store.fetch("train", {"seed": 0}, go_on)
    assert (folder, cached) == (unfinished, False)
    assert store.fetch("train", {"seed": 0}, die) == (folder, True)


def test_nothing_half_written_counts_as_complete(store: Cache) -> None:
    folder, _ = store.fetch("prune", {}, Maker())
    assert sorted(path.name for path in folder.iterdir()) == [ENTRY, "product"]
    (folder / ENTRY).rename(folder / (ENTRY + ".part"))  # died before the last step
    again = Maker()
    assert store.fetch("prune", {}, again) == (folder, False)
    assert again.calls == 1


def test_a_value_is_made_once(store: Cache) -> None:
    inputs: tuple[str, dict[str, object]] = ("reachable", {"model": "a"})
    assert store.known_value(*inputs) is None
    assert not store.root.exists()  # a question creates nothing
    assert store.fetch_value(*inputs, lambda: [1, 2]) == [1, 2]
    assert store.fetch_value(*inputs, lambda: pytest.fail("made again")) == [1, 2]
    assert store.known_value(*inputs) == [1, 2]
    assert Cache(store.root, enabled=False).known_value(*inputs) is None


def test_a_damaged_value_is_not_known(store: Cache) -> None:
    store.fetch_value("reachable", {"model": "a"}, lambda: [1, 2])
    (folder,) = store.entries()
    (folder / cache.VALUE).write_text("[1, 3]")
    assert store.known_value("reachable", {"model": "a"}) is None
    assert store.fetch_value("reachable", {"model": "a"}, lambda: [1, 2]) == [1, 2]


def test_cache_off_makes_anew(store: Cache) -> None:
    off, maker = Cache(store.root, enabled=False), Maker("new")
    folder, _ = store.fetch("prune", {}, Maker("old"))
    (folder / "left over").touch()
    assert off.fetch("prune", {}, maker) == (folder, False)
    assert (folder / "product").read_text() == "new"
    assert not (folder / "left over").exists()
    off.fetch("prune", {}, maker)
    assert maker.calls == 2
    assert store.fetch("prune", {}, maker) == (folder, True)  # what was made anew serves later runs


def test_cache_off_does_not_go_on_with_half_a_training(store: Cache) -> None:
    def die(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.fetch("train", {}, die)
    folder, _ = Cache(store.root, enabled=False).fetch("train", {}, Maker())
    assert sorted(path.name for path in folder.iterdir()) == [ENTRY, "product"]


PARTS = {"seed": 0}


def _whole(folder: Path) -> None:
    """What a prune stage leaves: a product of two files, and its record."""
    (folder / "product").mkdir()
    (folder / "product" / "model.json").write_text("{}")
    (folder / "product" / "model.safetensors").write_bytes(bytes(range(256)))
    (folder / "pruning.json").write_text('{"channels": 3}')


def _flip(file: Path, place: int = 0) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def _retell(**changes: object) -> Callable[[Path], object]:
    """Changes what entry.json says, with a hash that fits."""

    def damage(folder: Path) -> None:
        entry = json.loads((folder / ENTRY).read_text()) | changes
        entry.pop("sha256")
        (folder / ENTRY).write_text(json.dumps({**entry, "sha256": digest(entry)}))

    return damage


def _replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file")


def _replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _link_to(folder: Path, other: Path) -> None:
    shutil.copytree(folder, other)
    shutil.rmtree(folder)
    folder.symlink_to(other)


def _link_file(file: Path) -> None:
    copied = file.with_name("copied")
    shutil.copyfile(file, copied)
    outside = file.parents[3] / "outside"
    copied.replace(outside)
    file.unlink()
    file.symlink_to(outside)


def _of(name: str, change: Callable[[Path], object]) -> Callable[[Path], object]:
    """`change` of the file `name` in the folder of an entry."""
    return lambda folder: change(folder / name)


FILES = ("product/model.json", "product/model.safetensors", "pruning.json", ENTRY)
DAMAGE: dict[str, Callable[[Path], object]] = {
    **{f"first byte of {name}": _of(name, _flip) for name in FILES},
    **{f"last byte of {name}": _of(name, lambda file: _flip(file, -1)) for name in FILES},
    **{f"{name} cut": _of(name, lambda file: os.truncate(file, 1)) for name in FILES},
    **{f"{name} empty": _of(name, lambda file: os.truncate(file, 0)) for name in FILES},
    **{f"{name} longer": _of(name, lambda file: file.open("a").write("x")) for name in FILES},
    **{f"{name} deleted": _of(name, Path.unlink) for name in FILES[:3]},
    **{f"{name} a folder": _of(name, _replace_by_folder) for name in FILES},
    "a file more": lambda folder: (folder / "product" / "more").touch(),
    "product deleted": lambda folder: shutil.rmtree(folder / "product"),
    "product of another stage": lambda folder: (folder / "product" / "model.json").write_text('{"valid": "too"}'),
    "a link in place of a file": lambda folder: _link_file(folder / "product" / "model.json"),
    "a dangling link more": lambda folder: (folder / "product" / "more").symlink_to("nowhere"),
    "a file in place of the entry": _replace_by_file,
    "a link in place of the entry": lambda folder: _link_to(folder, folder.parents[1] / "elsewhere"),
    "entry.json a list": lambda folder: (folder / ENTRY).write_text("[]"),
    "entry.json deep": lambda folder: (folder / ENTRY).write_text("[" * 100_000),
    "entry.json not UTF-8": lambda folder: (folder / ENTRY).write_bytes(b'{"stage": "\xff"}'),
    "entry.json of another stage": _retell(stage="finetune"),
    "entry.json of another entry": _retell(key="0" * 64),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_entry_is_made_again(
    damage: Callable[[Path], object], store: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = store.fetch("prune", PARTS, _whole)
    damage(folder)
    assert store.fetch("prune", PARTS, _whole) == (folder, False)
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert folder.name in warning and "computed again" in warning
    assert not folder.is_symlink() and (folder / "product" / "model.json").read_text() == "{}"
    assert store.fetch("prune", PARTS, _whole) == (folder, True)


def test_an_entry_of_an_older_version_is_made_again_and_is_not_called_damaged(
    store: Cache, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = store.fetch("prune", PARTS, _whole)
    (folder / ENTRY).write_text('{"stage": "prune", "parts": {"seed": 0}}')
    assert cache.main(["--root", str(store.root), "verify"]) == 0
    assert "other schema version" in capsys.readouterr().out
    assert store.fetch("prune", PARTS, _whole) == (folder, False) and "damaged" not in caplog.text
    assert store.fetch("prune", PARTS, _whole) == (folder, True)


def test_nothing_but_entries_is_deleted(store: Cache) -> None:
    entry, _ = store.fetch("prune", PARTS, _whole)
    others = [store.root / "my-photos", store.root / "prune-2025", store.root / f"{entry.name}.old"]
    for folder in others:
        folder.mkdir()
    assert cache.main(["--root", str(store.root), "prune"]) == 0
    assert not entry.exists() and all(folder.exists() for folder in others)


def test_a_valid_entry_under_another_name_is_not_taken(store: Cache) -> None:
    other, _ = store.fetch("prune", {"seed": 1}, Maker("other"))
    wanted, _ = store.fetch("prune", PARTS, Maker("wanted"))
    shutil.rmtree(wanted)
    shutil.copytree(other, wanted)
    assert store.fetch("prune", PARTS, Maker("wanted")) == (wanted, False)
    assert (wanted / "product").read_text() == "wanted"


@pytest.mark.parametrize("made", ["file", "link"])
def test_a_cache_that_is_no_folder_is_the_users_error(made: str, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    if made == "file":
        root.touch()
    else:
        root.symlink_to(tmp_path / "file")
        (tmp_path / "file").touch()
    with pytest.raises(UserError, match="needs a writable folder: make") as caught:
        Cache(root).check()
    assert (caught.value.key, caught.value.value) == ("cache", root)


def test_verify(store: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    folders = _filled(store)
    assert cache.main(["--root", str(store.root), "verify"]) == 0
    assert capsys.readouterr().out.count("  undamaged\n") == 3
    _flip(folders[0] / "product")
    (folders[1] / ENTRY).unlink()
    assert cache.main(["--root", str(store.root), "verify"]) == cache.DAMAGED
    said = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert said[folders[0].name] == "damaged: product has changed since it was written"
    assert (said[folders[1].name], said[folders[2].name]) == ("unfinished", "undamaged")


def test_two_processes_make_an_entry_once(tmp_path: Path) -> None:
    script = """
import os, sys, time
from pathlib import Path
from compress.cache import Cache
def make(folder):
    with open("made", "a") as file:
        file.write("x")
    time.sleep(0.5)
    (folder / "product").write_text("whole")
Path(sys.argv[1]).touch()
while not (Path("a").exists() and Path("b").exists()):
    time.sleep(0.01)
folder, cached = Cache(Path("cache")).fetch("prune", {"seed": 0}, make)
print(cached, (folder / "product").read_text())
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, name], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, text=True,
        )
        for name in ("a", "b")
    ]  # fmt: skip
    said = sorted(process.communicate(timeout=60)[0].strip() for process in processes)
    assert said == ["False whole", "True whole"]
    assert (tmp_path / "made").read_text() == "x"


def _filled(store: Cache) -> list[Path]:
    """Three entries of 1 MB each; the first, used last, first."""

    def make(folder: Path) -> None:
        (folder / "product").write_bytes(bytes(1_000_000))

    folders = []
    for age, stage in enumerate(("export", "prune", "train")):
        folder, _ = store.fetch(stage, {}, make)
        os.utime(folder / ENTRY, (time.time() - 3600 * age,) * 2)
        folders.append(folder)
    return folders


def test_list(store: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    folders = _filled(store)
    (folders[2] / ENTRY).unlink()
    os.utime(folders[2], (0, 0))
    assert cache.main(["--root", str(store.root), "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [folder.name for folder in folders]
    assert [line.split()[-1] for line in lines] == ["complete", "complete", "unfinished"]
    assert all(line.split()[1:3] == ["1.0", "MB"] for line in lines)
    assert all(folder.exists() for folder in folders)


def test_prune_drops_what_was_used_longest_ago(store: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    folders = _filled(store)
    assert store.fetch("train", {}, Maker()) == (folders[2], True)  # now it is the one used last
    assert cache.main(["--root", str(store.root), "prune", "--keep-gb", "0.0025"]) == 0
    assert capsys.readouterr().out == f"deleted {folders[1].name}\n"
    assert [folder.exists() for folder in folders] == [True, False, True]


def test_prune_all(store: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    _filled(store)
    assert cache.main(["--root", str(store.root), "prune"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert store.entries() == []
    cache.main(["--root", str(store.root), "list"])
    assert "nothing cached in" in capsys.readouterr().out
    maker = Maker()
    assert store.fetch("train", {}, maker)[1] is False
    assert maker.calls == 1


def test_prune_waits_for_a_run_that_makes_an_entry(store: Cache) -> None:
    began, release, whole = threading.Event(), threading.Event(), []

    def slow(folder: Path) -> None:
        (folder / "half").write_text("epoch 3")
        began.set()
        release.wait(10)
        whole.append((folder / "half").exists())

    run = threading.Thread(target=store.fetch, args=("train", {}, slow))
    run.start()
    began.wait(10)
    prune = threading.Thread(target=cache.main, args=(["--root", str(store.root), "prune"],))
    prune.start()
    prune.join(0.2)
    assert prune.is_alive()
    release.set()
    run.join(10)
    prune.join(10)
    assert whole == [True]
    assert store.entries() == []


def test_the_command_line(tmp_path: Path) -> None:
    Cache(tmp_path / "outputs" / ".cache").fetch("prune", {}, Maker())
    ended = subprocess.run(
        [sys.executable, "-m", "compress.cache", "list"],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("prune-")
