from __future__ import annotations

from pathlib import Path

import pytest

from compress.devices import operators
from compress.errors import UserError
from compress.product import Precision, Product
from compress.stages import export
from tests.fakes import BareModel, small_model
from tests.models.toy import Net
from tests.stages.conftest import config, context, data


def test_every_target_gets_its_folder_and_all_checks(tmp_path: Path) -> None:
    settings = config()
    settings.targets = ["onnxruntime", "tensorrt"]
    services = context(settings, data(), tmp_path)
    product = export.run(Product(small_model(), failures={"tensorrt": "failed before"}), services)
    [graph] = product.graphs
    assert (graph.target, graph.precision) == ("onnxruntime", Precision.fp32)
    assert graph.path.is_relative_to(tmp_path / "artifacts" / "onnxruntime")
    assert (tmp_path / "artifacts" / "onnxruntime" / "manifest.json").is_file()
    assert not (tmp_path / "artifacts" / "tensorrt").exists() and product.failures == {"tensorrt": "failed before"}
    [network] = operators.read(tmp_path / "artifacts" / operators.FILE).values()
    assert sum(each.macs for each in network) > 0
    names = {check.name for check in product.acceptance_checks}
    assert "contract.same_as_torch" in names and all(check.met for check in product.acceptance_checks)


def test_a_model_that_cannot_be_judged_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be evaluated here"):
        export.run(Product(BareModel(Net())), context(config(), data(), tmp_path))
