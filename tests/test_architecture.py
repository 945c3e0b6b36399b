"""The structure of the package: imports go down only, stages are independent, config and folders agree."""

from __future__ import annotations

import ast
import dataclasses
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

from compress.config import CONF, Config

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "compress"
FILES = sorted(PACKAGE.rglob("*.py"))

# Layers, highest first. A module may import modules of lower layers, and of its own package.
LAYERS = [
    {"__main__"},
    {"command_line"},
    {"search"},
    {"sweep", "profiling", "launchers"},
    {"pipeline"},
    {"report"},
    {"recorder"},
    {"controls", "new", "trackers"},
    {"stages"},
    {"finetuning", "lineage", "quantization"},
    {"measurement"},
    {"examples"},
    {"models", "data", "pruning", "reconstruction", "devices"},
    {"targets"},
    {"training"},
    {"cached_graphs", "checkpoint", "run_folder"},
    {"cache"},
    {"product"},
    {"capabilities"},
    {"budget", "tasks"},
    {"timing_noise"},
    {"ledger"},
    {"config"},
    {"typed_json", "units", "user_code"},
    {"disk"},
    {"errors", "atomic", "digest", "host", "interruption"},
]
FACADE = "__init__"  # the library's public functions: imports from every package, and none imports it


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file) for file in FILES}


def package(module: str) -> str:
    """compress.stages.prune -> stages; the package itself -> the facade."""
    return module.split(".")[1] if "." in module else FACADE


@cache
def imports(file: Path) -> frozenset[str]:
    """Absolute names of modules that `file` imports anywhere, in functions and for type checking too."""
    here, result = module_name(file), set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = here if file.name == "__init__.py" else here.rpartition(".")[0]
            base = parent.split(".")[: len(parent.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            result |= {
                f"{source}.{alias.name}" if f"{source}.{alias.name}" in MODULES else source for alias in node.names
            }
    return frozenset(result)


def ours(file: Path) -> list[str]:
    return sorted(name for name in imports(file) if name == "compress" or name.startswith("compress."))


def may_import(importer: str, imported: str) -> bool:
    if importer in (imported, FACADE):
        return True
    layer = {name: index for index, names in enumerate(LAYERS) for name in names}
    return layer[importer] < layer.get(imported, -1)


def test_the_rules_can_be_broken() -> None:
    for importer, imported in [
        ("stages", "pipeline"), ("targets", "measurement"), ("models", "data"), ("training", "models"),
        ("checkpoint", "models"), ("errors", "config"), ("ledger", "budget"), ("report", "pipeline"),
        ("pipeline", "sweep"), ("stages", FACADE),
    ]:  # fmt: skip
        assert not may_import(importer, imported)
    assert may_import("pipeline", "stages")
    assert may_import("data", "config")
    assert "compress.stages.context" in imports(PACKAGE / "stages" / "prune.py")
    assert "compress.pruning.solver" in imports(PACKAGE / "stages" / "prune.py")
    assert "compress.models" in imports(PACKAGE / "stages" / "context.py")


def test_every_package_has_a_layer() -> None:
    packages = {package(name) for name in MODULES} - {FACADE}
    assert packages == set().union(*LAYERS)


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_go_down_only(file: Path) -> None:
    importer = package(module_name(file))
    wrong = [name for name in ours(file) if not may_import(importer, package(name))]
    assert wrong == []


def test_stages_never_import_each_other() -> None:
    for file in (PACKAGE / "stages").glob("*.py"):
        inside = {name for name in ours(file) if package(name) == "stages"}
        shared = {"compress.stages.context", "compress.stages.stage"}
        assert file.name == "__init__.py" or inside <= shared, file


def test_the_report_is_a_function_of_the_run_folder_alone() -> None:
    allowed = {"report", "errors", "atomic", "typed_json", "ledger", "budget", "timing_noise"}
    further = {
        "bench_results.py": {"config", "devices"},  # draws nothing: appends a row and judges the run again
        "sweep_reader.py": {"run_folder"},  # the lock of a point tells whether it is running
    }
    for file in (PACKAGE / "report").glob("*.py"):
        assert {package(name) for name in ours(file)} <= allowed | further.get(file.name, set()), file
        assert "torch" not in {name.split(".")[0] for name in imports(file)}, file


def test_budget_ledger_config_and_errors_do_without_torch() -> None:
    files = [
        *(PACKAGE / "budget").glob("*.py"),
        *(PACKAGE / "config").glob("*.py"),
        *(PACKAGE / f"{n}.py" for n in ("ledger", "errors", "cache")),
    ]
    for file in files:
        assert "torch" not in {module.split(".")[0] for module in imports(file)}, file


def test_the_bench_kit_runs_without_this_package() -> None:
    kit = sorted((PACKAGE / "targets" / "bench_kit").glob("*.py"))
    assert kit
    assert {file.name: ours(file) for file in kit} == {file.name: [] for file in kit}


def test_nothing_is_imported_from_scripts_or_tests() -> None:
    for file in FILES:
        assert not {name.split(".")[0] for name in imports(file)} & {"scripts", "tests", "conftest"}, file


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_every_module_says_what_it_is(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text()))


def test_folders_of_packages_are_packages() -> None:
    for file in FILES:
        if file.parent.name != "bench_kit":  # files to be copied, not imported
            assert (file.parent / "__init__.py").exists(), file


def test_every_folder_in_conf_is_a_group_of_the_config() -> None:
    fields = {field.name: field for field in dataclasses.fields(Config)}
    groups = {folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra"}
    assert groups <= fields.keys()
    assert all(dataclasses.is_dataclass(getattr(Config(), group)) for group in groups)


def test_the_defaults_list_is_the_table_of_contents() -> None:
    defaults = yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
    chosen = {group: choice for entry in defaults if isinstance(entry, dict) for group, choice in entry.items()}
    groups = {folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra"}
    assert chosen.keys() == groups | {"recipe"}
    assert all((CONF / group / f"{chosen[group]}.yaml").exists() for group in groups)


def test_config_files_name_only_keys_of_their_group() -> None:
    config = Config()
    for file in CONF.glob("*/*.yaml"):
        known = {field.name for field in dataclasses.fields(getattr(config, file.parent.name))}
        assert set(yaml.safe_load(file.read_text())) - {"defaults"} <= known, file


OF_THE_REPOSITORY = {Path("test_architecture.py"), Path("test_docs.py")}  # tests of no module


def test_tests_mirror_the_package() -> None:
    """`compress/A/B.py` has `tests/A/test_B.py`; tests of several modules are in `tests/end_to_end/`."""
    expected = {
        file.relative_to(PACKAGE).with_name(f"test_{file.name}") for file in FILES if not file.name.startswith("__")
    }
    tests = {file.relative_to(ROOT / "tests") for file in (ROOT / "tests").rglob("test_*.py")}
    tests = {file for file in tests - OF_THE_REPOSITORY if file.parts[0] != "end_to_end"}
    assert sorted(expected - tests) == []
    assert sorted(tests - expected) == []


def test_no_file_is_too_long_to_read() -> None:
    assert {file.name: count for file in FILES if (count := len(file.read_text().splitlines())) > 350} == {}


def test_modules_import_each_other_without_cycles() -> None:
    graph = {module_name(file): set(ours(file)) for file in FILES}
    assert list(TopologicalSorter(graph).static_order())


def test_nothing_branches_on_the_task_outside_tasks() -> None:
    """What depends on the task is in its object."""
    for file in FILES:
        if package(module_name(file)) in ("tasks", FACADE):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Compare):
                sides = {ast.unparse(each) for each in (node.left, *node.comparators)}
                assert not sides & {"CLASSIFY", "DETECT", "SEGMENT", "POSE", "OBB"}, file


def test_no_family_of_models_is_asked_for_outside_models() -> None:
    families = {"UltralyticsModel", "UltralyticsDetector", "UltralyticsClassifier", "PlainNetwork", "OnnxModel"}
    for file in FILES:
        if package(module_name(file)) != "models":
            names = {node.id for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Name)}
            assert not names & families, file
