"""Configuration files from outside the package can set values only; they cannot run code or choose where to write.

Hydra imports what a config names: `_target_` of callbacks, launchers and sweepers, `class` and `()` of log handlers,
packages on the search path. `target` of a model, data set, metric or task is an import path of this package. Such keys
in a foreign file are refused before it is composed, unless the command line, which is trusted, has `model.trust=true`.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from hydra._internal.core_plugins import file_config_source, importlib_resources_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf
from yaml import YAMLError

from compress.config import aliases
from compress.errors import UserError, one_line

# Keys whose values are import paths, or that lift this check.
IMPORTS = ("target", "_target_", "class", "()", "trust")
# References to other keys, environment variables and the time. Other resolvers can make keys out of text.
_REFERENCE = re.compile(r"\$\{[\w.\[\]]+\}|\$\{oc\.env:\w+(,[^${}]*)?\}|\$\{now:[^${}]*\}")


@dataclass
class Granted:
    """Permissions from the command line, or from the caller of `compress.compose`."""

    roots: tuple[Path, ...] = ()  # the package's own folders of config files
    overrides: dict[str, list[str]] = field(default_factory=dict)  # key: values

    @property
    def trust(self) -> bool:
        return self.overrides.get("model.trust", [])[-1:] in (["true"], ["True"])

    def imports(self, value: object) -> bool:
        """Whether the command line names this import path too."""
        return any(str(value) in values for key, values in self.overrides.items() if key.endswith("target"))


_granted = Granted()


def guard(roots: Sequence[Path], words: Sequence[str]) -> None:
    """Makes Hydra read files below `roots` unchecked, and check all others; `words` are the command-line overrides."""
    global _granted
    _granted = Granted(tuple(root.resolve() for root in roots), _values(words))
    Plugins.instance()  # registers Hydra's own sources, which would replace ours
    for source in (FileConfigSource, ImportlibResourcesConfigSource):
        SourcesRegistry.instance().types[source.scheme()] = source


def _values(words: Sequence[str]) -> dict[str, list[str]]:
    parser, values_by_key = OverridesParser.create(), dict[str, list[str]]()
    for word in words:
        try:
            override: Override = parser.parse_override(word)
        except HydraException:
            continue  # refused when it is composed
        if not override.is_delete():
            discrete = override.is_discrete_sweep()  # not an interval
            values = override.sweep_string_iterator() if discrete else [override.get_value_string()]
            values_by_key.setdefault(override.key_or_group, []).extend(str(value) for value in values)
    return values_by_key


class _Checked:
    """A source of config files. It carries the permissions, so that processes of a launcher have them too."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)  # type: ignore[call-arg]
        self.granted = _granted

    def load_config(self, config_path: str) -> ConfigResult:
        file = PurePath(self.path, config_path).with_suffix(".yaml")  # type: ignore[attr-defined]
        try:
            result: ConfigResult = super().load_config(config_path)  # type: ignore[misc]
        except (YAMLError, UnicodeDecodeError) as error:
            raise UserError(str(file), "unreadable", f"this is no YAML that can be read: {one_line(error)}") from error
        if not OmegaConf.is_dict(result.config):
            raise UserError(str(file), "unreadable", "it holds no keys and values")
        group, _, name = config_path.lstrip("/").rpartition("/")
        if not self._own(config_path):
            if not self.granted.trust:
                _check(file, config_path, result, self.granted)
            content = OmegaConf.to_container(result.config, resolve=False)
            renamed = aliases.tree(content, "" if group == "recipe" else group)
            if renamed != content:
                result.config = OmegaConf.create(renamed)
        if group == "recipe":  # it is merged at the top level, and the run is named after its file
            package = result.header["package"] = result.header.get("package") or "_global_"
            if package == "_global_" and "recipe_name" not in result.config:
                result.config["recipe_name"] = name.removesuffix(".yaml")
        return result

    @abstractmethod
    def _own(self, config_path: str) -> bool:
        """Whether the file is part of this package or of Hydra."""


# Named as Hydra's own: a worker of a launcher registers those again, and the registry keeps what has the same name.
class FileConfigSource(_Checked, file_config_source.FileConfigSource):
    def _own(self, config_path: str) -> bool:
        path = Path(self.path, config_path).resolve()
        return any(path.is_relative_to(root) for root in self.granted.roots)


class ImportlibResourcesConfigSource(_Checked, importlib_resources_config_source.ImportlibResourcesConfigSource):
    def _own(self, config_path: str) -> bool:
        return self.path.split(".")[0] in ("hydra", "hydra_plugins")


def _check(file: PurePath, config_path: str, result: ConfigResult, granted: Granted) -> None:
    """Raises UserError where a file from outside the package sets what could run code."""
    content = OmegaConf.to_container(result.config, resolve=False)
    package = result.header.get("package") or ""
    if content and "hydra" in (config_path.lstrip("/").split("/")[0], package.split(".")[0]):
        raise _refused(file, "hydra", "…")
    for path, value in _leaves(content, ()):
        key, text = ".".join(path), str(value)
        if path[0] == "defaults":  # names of other files, which are checked in turn
            if "@hydra" in f"{key} {text}".replace("@:", "@").replace("@_global_.", "@"):
                raise _refused(file, key, value)
            continue
        if path[0].split(".")[0] == "hydra":
            raise _refused(file, key, value)
        names = {step.split(".")[-1] for step in path}
        if names & set(IMPORTS) and value is not None and not granted.imports(value):
            what = "would switch this check off" if "trust" in names else f"would import {value}"
            raise _refused(file, key, value, what)
        if "${" in _REFERENCE.sub("", text):
            raise _refused(file, key, value)
        if path[-1] == "root" and (PurePath(text).is_absolute() or ".." in text or "$" in text):
            raise _refused(file, key, value, f"would write to {value}")


def _leaves(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value in nested dicts and lists, with the keys that lead to it."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, (*path, str(key)))
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, path)
    else:
        yield path, node


def _refused(file: PurePath, key: str, value: object, what: str = "could run code") -> UserError:
    remedy = f"it {what}. A config file outside the package may not set {key}: set it on the command line, or use "
    return UserError(f"{file}: {key}", value, f"{remedy}model.trust=true there if you know who wrote the file")
