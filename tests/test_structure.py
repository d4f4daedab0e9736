"""The house rules that can be checked by reading the source."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
ORDER = ["models", "train", "landscape", "analysis", "run"]
SOURCES = [p for folder in ORDER for p in sorted((ROOT / folder).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").glob("*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("ridgeline.").split(".")[0] for name in names}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    station = ORDER.index(path.relative_to(ROOT).parts[0])
    forbidden = set(ORDER[station + 1 :])
    assert not imported(path) & forbidden


def test_import_rule_sees_a_wrong_import(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from ridgeline.analysis.figures.style import style\n")
    assert "analysis" in imported(wrong)
    wrong.write_text("from ridgeline import analysis\n")
    assert "analysis" in imported(wrong)


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=lambda p: str(p.relative_to(ROOT)))
def test_our_folders_are_imported_through_the_package(path):
    """`from train.losses import ...` finds a user's own folder as soon as she has one."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not {name.split(".")[0] for name in names} & set(ORDER)


def test_every_folder_of_the_package_is_installed():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {".".join(("ridgeline", *p.parent.relative_to(ROOT).parts))
             for p in SOURCES if p.name == "__init__.py"}  # fmt: skip
    assert {*found, "ridgeline"} == set(setup["packages"])
    folders = {".".join(("ridgeline", *p.parent.relative_to(ROOT).parts)) for p in SOURCES}
    assert folders == found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_source_is_short_and_safe(path):
    text = path.read_text()
    assert text.count("\n") <= 300
    for call in re.findall(r"torch\.load\([^)]*\)", text):
        assert "weights_only=True" in call
    assert "import pickle" not in text or path.name == "foreign.py"
    if "run" not in path.relative_to(ROOT).parts:
        assert not re.search(r"\bprint\(", text)


def test_no_command_shadows_a_package():
    assert not {p.stem for p in (ROOT / "run").glob("*.py")} & set(ORDER)


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name.lower().replace("_", "-"): version for name, version in pairs}


def test_every_dependency_is_pinned_within_its_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    for requirement in wanted:
        name, minimum = re.match(r"([A-Za-z0-9-]+)(?:\[\w+\])?>=([\w.]+)", requirement).groups()
        version = pins()[name.lower()]
        assert Version(version) >= Version(minimum), requirement
    assert pins()["torch"] == "2.13.0"
    assert pins()["torchvision"] == "0.28.0"


def test_conda_environment_installs_the_same_pins():
    text = (ROOT / "environment.yml").read_text()
    pip_part = text.split("- pip:")[1]
    lines = re.findall(r"^\s+- (.*)$", pip_part, flags=re.M)
    assert lines == ["-c constraints.txt", "-e .[dev]"]
    makefile = (ROOT / "Makefile").read_text()
    assert "-c constraints.txt -e '.[dev]'" in makefile
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    minimum = project["requires-python"].removeprefix(">=")
    assert f"python={minimum}" in text


def test_ci_runs_the_commands_of_the_readme():
    assert "make test" in (ROOT / "README.md").read_text()
    assert re.search(r"^make .*\btest\b", (ROOT / ".ci" / "run").read_text(), flags=re.M)


COMMANDS = sorted(p for p in (ROOT / "run").glob("*.py") if p.stem != "__init__")


@pytest.mark.parametrize("path", COMMANDS, ids=lambda p: p.stem)
def test_a_command_is_short(path):
    """Arithmetic belongs to landscape and analysis, what commands share to run/shared."""
    assert path.read_text().count("\n") <= 60


@pytest.mark.parametrize("path", COMMANDS, ids=lambda p: p.stem)
def test_a_command_loads_torch_only_through_the_package(path):
    """`import ridgeline` lets waiting threads sleep, which torch reads once, when it is loaded."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        names |= {a.name for a in node.names} if isinstance(node, ast.Import) else set()
        names |= {node.module} if isinstance(node, ast.ImportFrom) else set()
    early = {"torch", "torchvision", "scipy", "pandas", "matplotlib", "xarray", "numpy"}
    assert not early & {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.name)
def test_benchmarks_import_what_the_package_has(path):
    """Sees a benchmark, which no test runs, name something that was moved."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "ridgeline":
            module = importlib.import_module(node.module)
            for alias in node.names:
                here = hasattr(module, alias.name)
                assert here or importlib.util.find_spec(f"{node.module}.{alias.name}"), alias.name
