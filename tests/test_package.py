"""The wheel beside a user's own repository, and the package's public face."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import ridgeline
from ridgeline.__main__ import commands, description, main
from tests.commands import tiny_set

ROOT = Path(__file__).resolve().parent.parent
TRAIN = ("--dataset", "tiny.npz", "--epoch_num", "0", "--subset_size", "12",
         "--eval_size", "6", "--out_folder", "runs")  # fmt: skip
NETWORK = """
from torch import nn

from models.blocks import WIDTH


class WRN(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3072, WIDTH), nn.ReLU())
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, x):
        return self.head(self.body(x))
"""
NOTEBOOK = """
import train
from analysis import NAME
from models.wideresnet import WRN

import ridgeline as rl

assert train.EPOCHS == 3 and NAME == "hers"
problem = rl.Problem(WRN(), rl.load_images("tiny.npz", "train").subset(6))
pairs = rl.top_eigenpairs(problem, 1, max_iter=2)
surface = rl.scan(problem, rl.random_plane(problem, 1), 3)
rl.draw(surface).savefig("surface.png")
assert surface["done"].all() and pairs["eigenvector"].sizes["rank"] == 1
print("drawn from", rl.__file__)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The scripts of an environment with the wheel of this checkout; libraries as they are here."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    kept = ("models", "train", "landscape", "analysis", "run", "ridgeline")
    source.mkdir()
    for name in (*kept, "pyproject.toml", "README.md", "LICENSE"):  # a build leaves files behind
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run([*pip, *build], check=True)
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", str(wheel)], check=True)
    (site,) = (folder / "env" / "lib").glob("python3*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


@pytest.fixture
def repository(tmp_path) -> Path:
    """A user's repository with folders that have the names of ours."""
    for name, text in {
        "models/__init__.py": "", "models/blocks.py": "WIDTH = 4\n",
        "models/wideresnet.py": NETWORK, "train.py": "EPOCHS = 3\n",
        "analysis/__init__.py": "NAME = 'hers'\n", "notebook.py": NOTEBOOK,
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    tiny_set(tmp_path)
    return tmp_path


def said(repository: Path, *command: str) -> str:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        list(map(str, command)), cwd=repository, capture_output=True, text=True,
        env={**env, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_works_in_a_repository_with_the_same_folders(installed, repository):
    ridge = installed / "ridgeline"
    by_module = ("--model_type", "models.wideresnet:WRN", "--model_name", "a")
    said(repository, ridge, "train_normal", *by_module, *TRAIN)
    by_file = ("--model_type", "models/wideresnet.py:WRN", "--model_name", "b")
    python = installed / "python"
    said(repository, python, "-m", "ridgeline", "train_normal", *by_file, *TRAIN)
    assert (repository / "runs/a.ckpt").exists() and (repository / "runs/b.ckpt").exists()
    assert str(installed.parent) in said(repository, python, "notebook.py")


def test_public_names_are_there_and_loaded_when_used():
    for name, place in ridgeline.PUBLIC.items():
        module, _, inner = place.partition(":")
        assert getattr(ridgeline, name) is getattr(
            importlib.import_module(f"ridgeline.{module}"), inner or name
        )
        assert name in dir(ridgeline)
    code = "import sys, ridgeline; assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    code += "; import os; assert 'OMP_WAIT_POLICY' not in os.environ"
    env = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
    with pytest.raises(AttributeError, match="no attribute 'mystery'"):
        _ = ridgeline.mystery


def test_the_program_lists_commands_and_refuses_others(monkeypatch, capsys):
    files = {p.stem for p in (ROOT / "run").glob("*.py")} - {"__init__"}
    assert set(commands()) == files and all(map(description, commands().values()))
    monkeypatch.setattr(sys, "argv", ["ridgeline"])
    main()
    assert "calc_hessian" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["ridgeline", "calc_hesian"])
    with pytest.raises(SystemExit) as stop:
        main()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "calc_hessian" in error


@pytest.mark.parametrize(("own", "expected"), [(None, "passive"), ("active", "active")])
def test_commands_let_waiting_threads_sleep_unless_the_user_says_otherwise(own, expected, tmp_path):
    """Only this sees a setting that comes after torch was loaded, or that overrules the user."""
    command = ROOT / "run" / "plot.py"
    code = (
        "import os, runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    env = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    env |= {} if own is None else {"OMP_WAIT_POLICY": own}
    done = subprocess.run([sys.executable, "-c", code, str(command)], env=env, cwd=tmp_path,
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.splitlines()[-1] == expected


def test_a_command_loads_figures_tables_and_statistics_only_when_it_uses_them():
    """Sees one module-level import, or use, of what --help does not need."""
    code = (
        "import importlib, sys; sys.argv = [sys.argv[1]]\n"
        "from ridgeline.__main__ import commands\n"
        "from ridgeline.run.shared.launch import help_text\n"
        "for name in commands():\n"
        "    help_text(importlib.import_module(f'ridgeline.run.{name}').main, name)\n"
        "heavy = ('pandas', 'matplotlib', 'plotly', 'torchvision', 'scipy.optimize',\n"
        "         'scipy.stats', 'scipy.linalg', 'h5netcdf', 'xarray.core', 'torch._dynamo')\n"
        "assert not {*heavy} & {*sys.modules}, {*heavy} & {*sys.modules}\n"
        "import xarray; from threading import Thread\n"
        "found = []; ask = lambda: found.append(xarray.Dataset)\n"
        "both = [Thread(target=ask), Thread(target=ask)]\n"
        "[t.start() for t in both]; [t.join() for t in both]\n"
        "import xarray.core.dataset\n"
        "assert found == [xarray.core.dataset.Dataset] * 2 == [xarray.Dataset] * 2\n"
    )
    command = str(ROOT / "run" / "plot.py")
    subprocess.run([sys.executable, "-c", code, command], check=True)


def described_parameters(name: str) -> list[str]:
    """The parameters of a public name as a reader sees them: `**options` with its stars."""
    try:
        found = inspect.signature(getattr(ridgeline, name)).parameters.values()
    except ValueError:  # an exception
        return []
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [stars.get(p.kind, "") + p.name for p in found]


#: what the class says in prose, by subject
IN_PROSE = {"Problem"}


@pytest.mark.parametrize("name", sorted(ridgeline.PUBLIC.keys() - IN_PROSE))
def test_a_public_name_of_several_parameters_explains_each(name):
    """Also what it raises, in a section of its own."""
    names, text = described_parameters(name), inspect.getdoc(getattr(ridgeline, name))
    if len(names) < 3:
        return
    sections = re.split(r"^(Args|Returns|Raises|References):\n", text, flags=re.M)
    held = dict(zip(sections[1::2], sections[2::2], strict=True))
    told = re.findall(r"^    ([*\w]+): ", held["Args"], flags=re.M)
    assert told == names
    if "Error" in text:
        assert re.search(r"^    \w+: ", held["Raises"], flags=re.M)
        assert "Raises " not in text
