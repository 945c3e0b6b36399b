"""Which number format, layout and thread count training takes: by the CPU's features, else by time."""

from __future__ import annotations

import pytest
import torch

from compress.config import Config, NumberFormat
from compress.errors import UserError
from compress.host import Host
from compress.training import distributed, settings
from compress.training.placement import Placement
from compress.training.settings import STEPS, TrainingSettings, by_capability, choose, native_bfloat16
from tests.fakes import Clock

ZEN1, ZEN5 = ("avx2",), ("avx2", "avx512f", "avx512_vnni", "avx512_bf16")
SAPPHIRE_RAPIDS, CASCADE_LAKE = (*ZEN5, "amx_bf16"), ("avx2", "avx512f", "avx512_vnni")


def machine(features: tuple[str, ...]) -> Host:
    return Host("a CPU", 2, 2, features)


@pytest.mark.parametrize(
    ("features", "environment", "native"),
    [
        (ZEN1, {}, False),
        (ZEN5, {}, True),
        (SAPPHIRE_RAPIDS, {}, True),
        (CASCADE_LAKE, {}, None),
        ((), {}, None),
        (SAPPHIRE_RAPIDS, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, False),
        (SAPPHIRE_RAPIDS, {"ONEDNN_MAX_CPU_ISA": "avx512_core_vnni"}, False),
        (SAPPHIRE_RAPIDS, {"DNNL_MAX_CPU_ISA": "AVX2"}, False),
        (SAPPHIRE_RAPIDS, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, True),
        (SAPPHIRE_RAPIDS, {"ONEDNN_MAX_CPU_ISA": "DEFAULT"}, True),
    ],
)
def test_capability(features: tuple[str, ...], environment: dict[str, str], native: bool | None) -> None:
    assert native_bfloat16(machine(features), environment)[0] is native


CLOCK = Clock()
HOURS = 10**9  # image presentations of a long training


class Steps:
    """Stands for training steps that take given milliseconds; counts what was timed."""

    def __init__(self, **milliseconds: float) -> None:
        self.milliseconds, self.seen = milliseconds, list[TrainingSettings]()

    def __call__(self, settings: TrainingSettings) -> None:
        self.seen.append(settings)
        wanted = self.milliseconds[settings.format]
        if not settings.channels_last:
            wanted *= self.milliseconds.get("contiguous", 1)
        if settings.threads < 4:
            wanted *= self.milliseconds.get("two_threads", 1)
        CLOCK.sleep(wanted / 1000)


def on(monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...]) -> None:
    monkeypatch.setattr(settings, "time", CLOCK)
    monkeypatch.setattr(settings, "host", lambda: machine(features))
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)


@pytest.mark.parametrize(
    ("features", "asked", "steps", "bfloat16"),
    [
        (ZEN5, NumberFormat.auto, Steps(fp32=1, bf16=9), True),  # no doubt: nothing is compared
        (ZEN1, NumberFormat.auto, Steps(fp32=9, bf16=1), False),
        (CASCADE_LAKE, NumberFormat.auto, Steps(fp32=9, bf16=5), True),
        (CASCADE_LAKE, NumberFormat.auto, Steps(fp32=5, bf16=5), False),  # within the margin
        (ZEN1, NumberFormat.bf16, Steps(fp32=1, bf16=2), True),
        (ZEN5, NumberFormat.fp32, Steps(fp32=2, bf16=1), False),
    ],
)
def test_the_format(
    features: tuple[str, ...], asked: NumberFormat, steps: Steps, bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, features)
    settings = choose(asked, 2, 16, steps, HOURS)
    assert (settings.format == "bf16") is bfloat16
    assert settings.reason and settings.images_per_second
    formats = {each.format for each in steps.seen}
    assert formats == ({"fp32", "bf16"} if features is CASCADE_LAKE else {settings.format})


def test_a_load_that_begins_during_the_timing_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, CASCADE_LAKE)
    steps = Steps(fp32=3, bf16=3)

    def loaded(settings: TrainingSettings) -> None:
        steps(settings)
        if len(steps.seen) > 1 + STEPS:
            CLOCK.sleep(0.01)

    assert choose(NumberFormat.auto, 2, 16, loaded, HOURS).format == "fp32"


@pytest.mark.parametrize(("factor", "channels_last"), [(2.0, True), (0.95, True), (0.4, False)])
def test_the_layout_of_float32(factor: float, channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, ZEN1)
    assert choose(NumberFormat.auto, 2, 16, Steps(fp32=8, contiguous=factor), HOURS).channels_last is channels_last


def test_a_short_training_keeps_the_default_layout_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, ZEN1)
    steps = Steps(fp32=8, contiguous=0.1, two_threads=0.1)
    settings = choose(NumberFormat.auto, 4, 16, steps, 20_000)
    assert settings.channels_last and settings.threads == 4
    assert settings.images_per_second == pytest.approx(2000)


@pytest.mark.parametrize(("factor", "threads"), [(1.0, 8), (0.3, 2)])
def test_fewer_threads_where_they_are_faster(factor: float, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, ZEN5)
    before = torch.get_num_threads()
    settings = choose(NumberFormat.auto, 8 if threads == 8 else 4, 16, Steps(bf16=8, two_threads=factor), HOURS)
    assert settings.threads == threads
    assert torch.get_num_threads() == before


def test_timing_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, CASCADE_LAKE)
    monkeypatch.setattr(settings, "PATIENCE", -1.0)
    steps = Steps(fp32=1, bf16=1)
    assert choose(NumberFormat.auto, 2, 16, steps, HOURS).format == "fp32"
    assert len(steps.seen) == 1


def test_without_timing_doubt_means_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, CASCADE_LAKE)
    assert by_capability(2).format == "fp32" and by_capability(2).channels_last


def test_threads_are_those_of_this_process() -> None:
    assert Config().threads >= 1


@pytest.mark.parametrize("threads", [0, -1, 100_000])
def test_absurd_numbers_of_threads_are_refused(threads: int) -> None:
    with pytest.raises(UserError, match=f"threads={threads}: set 1 to"):
        Config(threads=threads)


GPUS = {  # compute capability, bfloat16 units
    "H100": ((9, 0), True),
    "T4": ((7, 5), False),
    "P100": ((6, 0), False),
}


@pytest.mark.parametrize(
    ("gpu", "asked", "format"),
    [
        ("H100", NumberFormat.auto, "bf16"),
        ("T4", NumberFormat.auto, "fp16"),
        ("P100", NumberFormat.auto, "fp32"),
        ("H100", NumberFormat.fp16, "fp16"),
        ("H100", NumberFormat.fp32, "fp32"),
        ("T4", NumberFormat.bf16, r"precision=bf16: a T4 cannot compute in it: set one of fp16, fp32"),
        ("P100", NumberFormat.fp16, r"precision=fp16: a P100 cannot compute in it: set one of fp32"),
    ],
)
def test_the_format_of_gpus(gpu: str, asked: NumberFormat, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    capability, bfloat16 = GPUS[gpu]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a {gpu}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)
    placement = Placement("cuda")
    if "=" in format:
        with pytest.raises(UserError, match=format):
            by_capability(2, asked, placement)
    else:
        chosen = by_capability(2, asked, placement)
        assert chosen.format == format
        assert chosen.numerics["hardware"] == f"a {gpu}"


def test_float16_on_a_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, ZEN5)
    with pytest.raises(UserError, match=r"precision=fp16: .* cannot compute in it: set one of bf16, fp32"):
        choose(NumberFormat.fp16, 2, 16, Steps(), HOURS)


def test_the_number_of_processes_is_part_of_cache_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = TrainingSettings().numerics
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    assert TrainingSettings().numerics == {**alone, "processes": 2}
