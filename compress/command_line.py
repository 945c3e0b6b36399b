"""The command `run`: reads the command line with Hydra, runs the recipe or the sweep, returns the exit status."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path, get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from compress import config as configuration
from compress import disk, interruption, launchers, run_folder
from compress.budget import MET
from compress.config import aliases
from compress.errors import InUse, UserError, refuse_words
from compress.report import sweep_reader

FAILED, USER_MISTAKE = 1, 2  # MET and NOT_MET are the verdict's

HELP = """\
compress: prune a vision model to a FLOP budget, fine-tune it, quantize it to INT8, export and measure it.

  compress run recipe=RECIPE [key=value ...]      run a recipe; -m sweeps over comma-separated values
  compress profile MODEL ... [--plot FILE]        FLOPs, bytes and time of models, per layer; no data is needed
  compress profile model=MODEL [key=value ...]    measure a model on data and change nothing
  compress profile --devices all|NAME,...         peaks, memory and power of devices
  compress report RUN | compare A B ... | add RUN BENCH
  compress devices list | add FILE | remove NAME   measurements that predictions are calibrated with
  compress cache list | verify | prune
  compress new NAME                               a folder with a recipe, a data set and a metric to fill in

`python -m compress` is the same program; without a command it is `run`.

Recipes
{recipes}

Configuration groups and their choices
{groups}

Examples
  compress run recipe=drone_nano budget.flops=30%
  compress run recipe=custom model=ultralytics model.path=best.pt data=yolo data.path=data.yaml
  compress run recipe=drone_nano budget.flops=null prune.ratio=0.1,0.3,0.5 -m
  compress run recipe=digits --cfg job            every key and its value; nothing is run

Exit status: 0 budget met; 1 internal error; 2 mistake in the command, data or model; 3 budget not met or not
measurable; 130 interrupted. Documentation: docs/index.md."""


class Stop(BaseException):
    """Ends a sweep. Not an Exception, because Hydra collects those of its jobs and continues."""


class WorkerStopped(Exception):
    """`Stop` in a worker of a launcher: other workers may continue, so Hydra collects it."""


class CommandLine:
    """Keeps the outcome of a job: Hydra discards return values and prints its own text about exceptions."""

    def __init__(self) -> None:
        self.status = MET
        self.error: Exception | None = None
        self.origin = launchers.Origin()

    def job(self, composed: DictConfig) -> tuple[float, float] | None:
        """Runs the recipe, or one point of a sweep, perhaps in a worker of a launcher. A point returns its objectives.
        Raises Stop (in a worker: WorkerStopped) if no further point can be run here, as on a full disk."""
        from compress import pipeline, sweep  # after Hydra has checked the command: importing torch takes seconds

        hydra_config = HydraConfig.get()
        folder, words = Path(hydra_config.runtime.output_dir), list(hydra_config.overrides.task)
        if hydra_config.mode == RunMode.MULTIRUN:
            if not self.origin.here:
                self.origin.enter(Path(hydra_config.sweep.dir))
                launchers.pin(hydra_config.launcher, composed.threads)
            objective = hydra_config.sweeper.get("objective", sweep.FLOPS)
            try:
                return sweep.point(composed, folder, objective, words, worker=not self.origin.here)
            except Exception as error:
                stop = Stop if self.origin.here else WorkerStopped
                raise stop(disk.problem(error, folder) or str(error)) from error
        try:
            self.status = pipeline.run(configuration.to_config(composed), folder, words).verdict.exit_status
        except Exception as error:
            self.error = error
            if isinstance(error, UserError) and not isinstance(error, InUse):  # rejected before any work
                _remove_if_only(folder, "log.txt")
        return None


def _remove_if_only(folder: Path, *names: str) -> None:
    """Removes a folder that holds nothing but the files `names`, which were written before any work."""
    if {file.name for file in folder.glob("*")} <= set(names):
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return command()
    from compress.training import distributed  # imports torch, which takes seconds

    return distributed.run(command)


def command() -> int:
    """Runs the command in `sys.argv` and returns the exit status (see HELP)."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints its own message and exits 1 for a user's typo
    logging.raiseExceptions = False  # otherwise every log line on a full disk prints a traceback
    words: list[str] = []
    line, place = CommandLine(), None
    try:
        sys.argv[1:] = aliases.overrides(sys.argv[1:])
        arguments = _arguments()
        if arguments.help:
            print(help_text())
            return MET
        words = arguments.overrides
        configuration.register(words)
        place = _place(arguments)
        if place is not None:
            sys.argv[len(words) + 1 : len(words) + 1] = place.overrides
        with _recorded(place):
            hydra.main(version_base="1.3", config_path=str(configuration.CONF), config_name="config")(line.job)()
            if place is not None and place.kind == "sweep":
                _check_points(place.folder)
        if line.error is not None:
            raise line.error
    except BaseException as error:
        # An interruption may come out of a library as another exception.
        if isinstance(error, KeyboardInterrupt) or interruption.requested():
            print("compress: interrupted; the same command continues where it stopped", file=sys.stderr)
            return interruption.STATUS
        return _explained(error, line, place, words)
    return line.status


def _explained(error: BaseException, line: CommandLine, place: Place | None, words: Sequence[str]) -> int:
    """Prints one line about an error and returns the exit status. Raises an error of the program itself."""
    if isinstance(error, UserError | HydraException | OmegaConfBaseException):
        if place is not None and not place.named:
            _remove_if_only(place.folder, "multirun.yaml", run_folder.STATE, sweep_reader.PLAN)
        mistake = error if isinstance(error, UserError) else configuration.explain(error, words)
        return _fail(str(mistake), USER_MISTAKE)
    if isinstance(error, BrokenPipeError):  # the reader of our output has ended, as in `| head`
        return line.status
    if isinstance(error, Stop | WorkerStopped):
        return _fail(str(error), FAILED)
    if problem := launchers.lost_worker(error) or disk.problem(error, Path("outputs")):
        return _fail(problem, FAILED)
    raise error


def _arguments() -> argparse.Namespace:
    """Parses `sys.argv` with Hydra's parser, and moves the overrides in `sys.argv` before the options, because argparse
    requires contiguous positional arguments and would reject `recipe=x -m prune.ratio=0.1,0.3`."""
    parser = get_args_parser()
    parser.error = refuse_words  # type: ignore[method-assign]
    arguments = parser.parse_intermixed_args()
    if arguments.experimental_rerun:
        remedy = "it unpickles a file, which can run code: use the command again"
        raise UserError("--experimental-rerun", arguments.experimental_rerun, remedy)
    if arguments.hydra_help and not any(word.startswith("recipe=") for word in arguments.overrides):
        arguments.overrides.append("recipe=drone_nano")  # Hydra composes before its help, which requires a recipe
    options = list(sys.argv[1:])
    for word in arguments.overrides:
        if word in options:
            options.remove(word)
    sys.argv[1:] = [*arguments.overrides, *options]
    return arguments


@dataclass(frozen=True)
class Place:
    """The output folder of a command, chosen before Hydra opens its log."""

    kind: str  # run or sweep
    folder: Path
    named: bool  # by the user; it may hold something else
    overrides: Sequence[str]  # to be added to those of the command
    text: str = ""  # identifies a sweep


def _place(arguments: argparse.Namespace) -> Place | None:
    """None if nothing runs, or if the user names the folder of a run."""
    if any((arguments.help, arguments.hydra_help, arguments.cfg, arguments.info, arguments.shell_completion)):
        return None
    composed = _composed(arguments, RunMode.MULTIRUN if arguments.multirun else RunMode.RUN)
    kind = "sweep" if arguments.multirun or composed.hydra.mode == RunMode.MULTIRUN else "run"
    folder = Path(composed.hydra[kind].dir)
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"hydra.{kind}.dir", folder, "it is not a folder: name another")
    named = any(word.split("=")[0].lstrip("+") == f"hydra.{kind}.dir" for word in arguments.overrides)
    if kind == "sweep":
        return _place_of_sweep(arguments.overrides, composed, folder, named)
    with open_dict(composed):
        del composed["hydra"]
    config = configuration.to_config(composed)
    if named:
        return None
    folder = run_folder.choose(Path("outputs") / config.recipe_name, configuration.dump(config))
    return Place(kind, folder, False, [f"hydra.run.dir='{folder}'"])


def _place_of_sweep(words: Sequence[str], composed: DictConfig, folder: Path, named: bool) -> Place:
    """The same command continues an interrupted sweep, perhaps with another launcher or more trials of a search."""
    configuration.check_name(composed.recipe_name)
    launchers.check(composed.hydra, words)
    further = launchers.divide_threads(composed, words)
    launchers.connect(composed.hydra)
    with open_dict(composed):
        del composed["hydra"]
    others = (launchers.CHOICE, "hydra.launcher.", "hydra.sweeper.n_")
    text = "\n".join(sorted(word for word in (*words, *further) if not word.lstrip("+").startswith(others)))
    text += "\n" + OmegaConf.to_yaml(composed)
    if not named:
        folder = run_folder.choose(folder.parent, text)
    quoted = str(folder.absolute()).replace("'", "\\'")  # absolute, because workers start in other folders
    return Place("sweep", folder, named, [*further, f"hydra.sweep.dir='{quoted}'"], text)


def _recorded(place: Place | None) -> AbstractContextManager[None]:
    """Records how a sweep ends."""
    if place is None or place.kind != "sweep" or place.named:
        return nullcontext()
    return run_folder.of_sweep(place.folder, place.text)


def _check_points(folder: Path) -> None:
    """Raises UserError or Stop if every point of a sweep failed: the exit status is that of the first one."""
    failures = sweep_reader.failures(folder)
    if failures:
        remedy = f"all of its {len(failures)} points failed, the first one because of {failures[0].error}"
        error = UserError("sweep", folder, remedy)
        raise error if failures[0].mistake else Stop(str(error))


def _composed(arguments: argparse.Namespace, mode: RunMode) -> DictConfig:
    """The configuration that `hydra.main` will compose, with its node `hydra`, without the swept values."""
    path = create_automatic_config_search_path(__file__, None, arguments.config_path or str(configuration.CONF))
    if arguments.config_dir is not None:
        folder = Path(arguments.config_dir).absolute()
        if not folder.is_dir():
            raise UserError("--config-dir", arguments.config_dir, "there is no such folder")
        path.prepend("command-line", f"file://{folder}", "schema")
    try:
        composer = Hydra.create_main_hydra2("compress", path)
        name = arguments.config_name or "config"
        return composer.compose_config(name, list(arguments.overrides), mode, with_log_configuration=False)
    except configuration.COMPOSING as error:
        raise configuration.explain(error, arguments.overrides) from error
    finally:
        GlobalHydra.instance().clear()


def _fail(message: str, status: int) -> int:
    print(f"compress: error: {message}", file=sys.stderr)
    return status


def help_text() -> str:
    """The text of `--help`: commands, recipes, one line per configuration group, examples."""
    groups = [("recipe", configuration.RECIPES)]
    folders = {file.parent for file in configuration.CONF.rglob("*/*.yaml")}
    groups += [(folder.relative_to(configuration.CONF).as_posix(), folder) for folder in sorted(folders)]
    choices, recipes = [], []
    for group, folder in groups:
        names = " | ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        choices.append(textwrap.fill(names, 112, initial_indent=f"  {f'{group}=':<16}", subsequent_indent=" " * 18))
    for file in sorted(configuration.RECIPES.glob("*.yaml")):
        title = file.read_text().splitlines()[0].removeprefix("# ").partition(": python -m")[0]
        recipes.append(f"  {file.stem:<18}{title}")
    return HELP.format(groups="\n".join(choices), recipes="\n".join(recipes))
