"""Composes `conf/`, `recipes/` and the command line with Hydra into a `Config`. Only this package depends on Hydra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from compress.config import aliases, sources
from compress.config.device import DeviceConfig
from compress.config.messages import explain, nearest
from compress.config.schema import Config, check_required
from compress.errors import UserError

# A wheel has conf/ and recipes/ inside the package (pyproject force-includes them), a checkout beside it.
_ROOT = next(folder for folder in Path(__file__).resolve().parents[1:] if (folder / "conf").is_dir())
CONF, RECIPES = _ROOT / "conf", _ROOT / "recipes"
# Raised by Hydra for a mistake in a config; the last one for a key below one that is null.
COMPOSING = (HydraException, OmegaConfBaseException, ValueError, AssertionError)


def to_config(composed: DictConfig) -> Config:
    """Plain dataclasses from what Hydra composed. Raises UserError for a value of the wrong type or out of range."""
    # Hydra lets `+key=value` add what the schema does not know; merging onto a fresh schema does not.
    typed = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.to_container(composed))
    try:
        config = OmegaConf.to_object(typed)
    except MissingMandatoryValue as error:
        raise UserError(error.full_key or "recipe", "???", "set this value on the command line") from None
    assert isinstance(config, Config)
    check_required(config)
    return config


def dump(config: Config) -> str:
    """The composed configuration as YAML, as written into a run folder."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def read(run: Path) -> Config:
    """The configuration that `dump` wrote into a run folder. Raises UserError if none can be read."""
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError("run", run, "no run folder: it holds no config.yaml")
    try:
        known = aliases.tree(OmegaConf.to_container(OmegaConf.load(path)))
        return to_config(OmegaConf.merge(OmegaConf.structured(Config), known))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        raise UserError(str(path), "unreadable", f"of another version of this program? {explain(error)}") from error


def register(words: Sequence[str] = ()) -> None:
    """Registers the schema and every file in `recipes/` with Hydra, and checks files from elsewhere (`sources`), which
    may set only the import paths among `words`, the overrides. Recipes are stored one by one, because Hydra's search
    path cannot name a folder relative to the package."""
    sources.guard((CONF, RECIPES), words)
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for file in CONF.glob("hydra/*/*.yaml"):  # a plugin's own defaults of this name: Hydra would warn of two
        store.repo["hydra"].get(file.parent.name, {}).pop(file.name, None)
    for file in sorted(RECIPES.glob("*.yaml")):
        node = OmegaConf.merge({"recipe_name": file.stem}, OmegaConf.load(file))
        store.store(group="recipe", name=file.stem, package="_global_", node=node)


def device_profiles(names: Sequence[str] | None = None, folder: Path | None = None) -> dict[str, DeviceConfig]:
    """Device profiles by name: `names`, or all of them in alphabetical order. `folder`: holds the user's, in `device/`.
    Raises UserError for an unknown name, with the nearest one, and for an invalid profile."""
    folders = [CONF]
    if folder is not None:
        if not folder.is_dir():
            raise UserError("--config-dir", folder, "there is no such folder")
        folders.append(folder.absolute())
    known = sorted({file.stem for each in folders for file in (each / "device").glob("*.yaml")})
    names = known if names is None else list(dict.fromkeys(names))
    for name in names:
        if name not in known:
            raise UserError("device", name, f"there is no such choice{nearest(name, known)}")
    register()
    search = ",".join(f"'file://{each}'" for each in folders[1:])
    overrides = [*(f"+device@{name}={name}" for name in names), f"hydra.searchpath=[{search}]"]
    running = GlobalHydra.instance().hydra  # of the command line; Hydra composes for one program at a time
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = hydra_compose(None, overrides)
            schema = OmegaConf.structured(DeviceConfig)
            typed = {name: OmegaConf.to_object(OmegaConf.merge(schema, composed[name])) for name in names}
    except COMPOSING as error:
        raise explain(error) from error
    finally:
        GlobalHydra.instance().hydra = running
    return typed  # type: ignore[return-value]


def compose(overrides: list[str]) -> Config:
    """The config that `python -m compress <overrides>` runs with; for library users and tests."""
    overrides = aliases.overrides(overrides)
    register(overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            return to_config(hydra_compose("config", overrides))
        except COMPOSING as error:
            raise explain(error, overrides) from error
