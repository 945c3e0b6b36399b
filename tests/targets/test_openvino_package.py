from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from compress.errors import MissingExtra
from compress.targets.openvino_package import require


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    result = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "nncf" else result(name))
    with pytest.raises(MissingExtra, match="pip install nncf"):
        require()


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs openvino")
def test_the_telemetry_package_is_not_imported() -> None:
    code = (
        "import sys; from compress.targets.openvino_package import package_without_telemetry as p; "
        "assert p().__name__ == 'openvino'; print(sys.modules['openvino_telemetry'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "None\n", done.stderr
