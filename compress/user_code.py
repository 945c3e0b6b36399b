"""Loads objects that the command line names by import path: a task, a metric, a data set, a network."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.errors import UserError, named, one_line

_imported: set[str] = set()  # modules that `find` has imported


def digests() -> dict[str, str]:
    """{module of the user's own that was loaded in this process: SHA-256 of its file}."""
    found = {}
    for name in sorted(_imported):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None:
            found[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return found


def find(key: str, path: str, expected: str) -> Any:
    """The object at an import path such as `pkg.module.Name`; the module is imported. Raises UserError, which names the
    configuration `key` and what is `expected`, if there is no such module or name, or importing it raises."""
    module, _, name = path.rpartition(".")
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise UserError(key, path, f"is part of Python itself: name {expected}")
    try:
        found = getattr(importlib.import_module(module), name)
        _imported.add(module)
        return found
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(key, path, f"cannot be imported ({one_line(error)})") from error
    except (Exception, SystemExit) as error:  # the user's own code, at import
        raise UserError(key, path, f"importing {module} raised {named(error)}") from error


def load(key: str, path: str, args: Mapping[str, Any], expected: str) -> Any:
    """The object at `path`, called with `args` if it is a class or function. Raises UserError like `find`, and if the
    call raises."""
    target = find(key, path, expected)
    if not isinstance(target, type) and not (callable(target) and hasattr(target, "__code__")):
        return target  # an instance
    try:
        return target(**args)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code
        raise UserError(key, path, f"raised {named(error)}; expected {expected}") from error
