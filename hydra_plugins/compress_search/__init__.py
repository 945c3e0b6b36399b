"""Makes `compress.search` known to Hydra, which accepts plugins only from this namespace: `hydra/sweeper=optuna`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """Chooses the points of a sweep with Optuna. Its settings are in `conf/hydra/sweeper/optuna.yaml`."""

    launcher: Launcher

    def __init__(self, **settings: Any) -> None:  # part of the configuration, which `setup` receives
        super().__init__()

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: Sequence[str]) -> None:
        """Runs the search; `arguments` are the overrides of the command."""
        from compress import search  # Hydra imports this module at every start

        assert self.config is not None
        search.run(self.config, self.launcher, self.validate_batch_is_legal, arguments)
