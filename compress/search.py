"""Search with Optuna (`hydra/sweeper=optuna`): the points of a sweep are chosen by the results of earlier ones, for
accuracy against FLOPs or predicted latency. The study is `study.db` (SQLite) in the folder of the sweep.

hydra-optuna-sweeper 1.3.0, Hydra's own plugin, is not used. It requires Optuna below 3, whose SQLite storage fails with
SQLAlchemy 2; it runs `n_trials` more points when a search continues, and never those that were interrupted."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, open_dict

from compress import sweep
from compress.config import HOST, to_config
from compress.errors import UserError
from compress.measurement.predicted_latency import PredictedLatency

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

log = logging.getLogger(__name__)

STUDY = "study.db"
GIVE_UP = 5  # points; if the first ones all fail, so will the others
_INTERRUPTED = "interrupted"  # user attribute of the study: numbers of the trials whose points are run again


def run(
    config: DictConfig, launcher: Launcher, validate: Callable[[list[list[str]]], None], words: Sequence[str]
) -> None:
    """Runs points until the study has `hydra.sweeper.n_trials`. A study in the folder is continued: its interrupted
    points first, in the folders that they have.

    Args:
        config: composed for the sweep, with the node `hydra`.
        validate: raises an error of Hydra if overrides of points cannot be composed.
        words: overrides of the command. Those with several values, or an interval, are the search space, together with
            `hydra.sweeper.params`.

    Raises:
        UserError: before the first point, if the objective or the search space cannot work; later, if a worker of the
            launcher cannot run points.
    """
    settings = config.hydra.sweeper
    if settings.objective not in (sweep.FLOPS, sweep.LATENCY):
        raise UserError("hydra.sweeper.objective", settings.objective, f"set {sweep.FLOPS} or {sweep.LATENCY}")
    fixed, space, example = _space(dict(settings.params or {}), words)
    if not space:
        raise UserError("hydra.sweeper.params", "{}", "no key has several values or an interval: set some")
    validate([[*fixed, *example]])
    if settings.objective == sweep.LATENCY:
        _check_prediction(config)
    folder = Path(config.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "multirun.yaml")
    study = _study(folder, settings.objective, settings.seed)
    while (left := settings.n_trials - len(_ended(study))) > 0:
        trials = [_ask(study, space, folder) for _ in range(min(left, settings.n_jobs))]
        batch = [[*fixed, *(f"{key}={value}" for key, value in trial.params.items())] for trial in trials]
        for trial, result in zip(trials, launcher.launch(batch, initial_job_idx=trials[0].number), strict=True):
            _tell(study, trial.number, result.return_value)
        ended = _ended(study)
        if len(ended) >= GIVE_UP and not any(trial.values for trial in ended):
            log.error("the search ends, because its first %d points failed", len(ended))
            return
    for trial in study.best_trials:
        settings_of_trial = " ".join(f"{key}={value}" for key, value in trial.params.items())
        log.info("not dominated: accuracy %.4f, %s %.4g: %s", *trial.values[:1], settings.objective, trial.values[1],
                 settings_of_trial)  # fmt: skip


def _space(params: dict[str, Any], words: Sequence[str]) -> tuple[list[str], dict[str, BaseDistribution], list[str]]:
    """Fixed overrides, the distribution of each key that is searched, and one valid override for each such key. `words`
    take precedence over `params`; a key of `params` that is null is not searched."""
    parser = OverridesParser.create()
    defaults = [f"{key}={value}" for key, value in params.items() if value is not None]
    overrides = {each.get_key_element(): each for each in parser.parse_overrides([*defaults, *words])}
    fixed, space, example = [], {}, []
    for key, override in overrides.items():
        if override.is_sweep_override():
            space[key], value = _distribution(override)
            example.append(f"{key}={value}")
        else:
            assert override.input_line is not None  # parsed from text
            fixed.append(override.input_line)
    return fixed, space, example


def _distribution(override: Override) -> tuple[BaseDistribution, object]:
    """The distribution of a key, and one of its values."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if not isinstance(value, IntervalSweep):
        values = list(dict.fromkeys(override.sweep_string_iterator()))
        return CategoricalDistribution(values), values[0]
    low, high, logarithmic = value.start, value.end, "log" in value.tags
    assert low is not None and high is not None  # as Hydra's grammar ensures
    kind = IntDistribution if isinstance(low, int) and isinstance(high, int) else FloatDistribution
    try:
        return kind(low, high, log=logarithmic), low  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(override.get_key_element(), f"interval({low},{high})", str(error)) from error


def _check_prediction(config: DictConfig) -> None:
    """Raises UserError if latencies cannot be predicted for the device of the sweep."""
    composed = config.copy()
    with open_dict(composed):
        del composed["hydra"]
    typed = to_config(composed)
    if typed.device.name == HOST:
        raise UserError("device", HOST, "the objective latency is a prediction for a device: set device=NAME")
    PredictedLatency(typed)


def _study(folder: Path, objective: str, seed: int) -> Study:
    """The study in the folder, or a new one. Queues the points of interrupted trials again."""
    import optuna
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{folder.absolute() / STUDY}", study_name="compress",
            directions=["maximize", "minimize"], load_if_exists=True,
        )  # fmt: skip
    except Exception as error:  # of SQLAlchemy or Optuna
        remedy = f"{STUDY} in it cannot be used ({error.__class__.__name__}): delete that file, or use another folder"
        raise UserError("hydra.sweep.dir", folder, remedy) from error
    before = study.user_attrs.get("objective", objective)
    if before != objective:
        raise UserError("hydra.sweeper.objective", objective, f"the study in {folder} has the objective {before}")
    study.set_user_attr("objective", objective)
    # Another seed than before an interruption, or the first choices would be the same again.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.set_user_attr(_INTERRUPTED, [*study.user_attrs.get(_INTERRUPTED, []), trial.number])
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def _ask(study: Study, space: dict[str, BaseDistribution], folder: Path) -> Any:
    try:
        return study.ask(space)
    except ValueError as error:  # a key has other values than before
        remedy = f"its study has another search space ({error}): use another folder"
        raise UserError("hydra.sweep.dir", folder, remedy) from error


def _tell(study: Study, number: int, objectives: Sequence[float]) -> None:
    """Records a point; one without both objectives counts as failed."""
    from optuna.trial import TrialState

    if all(math.isfinite(value) for value in objectives):
        study.tell(number, values=[float(value) for value in objectives])
    else:
        study.tell(number, state=TrialState.FAIL)


def _ended(study: Study) -> list[Any]:
    """The trials that are finished or failed, but not those that were interrupted."""
    again = study.user_attrs.get(_INTERRUPTED, [])
    return [trial for trial in study.trials if trial.state.is_finished() and trial.number not in again]
