"""The examples of CONTRIBUTING.md run as they stand, with nothing but their own lines."""

from __future__ import annotations

import re
import sys
from types import ModuleType

import pytest
import torch

from ridgeline.analysis.figures import FIGURES, draw
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import load_result
from ridgeline.models import MODELS, build_model
from ridgeline.train.attacks import ATTACKS, parse_attack
from ridgeline.train.attacks.norms import row_norm
from ridgeline.train.data.noise import Noise
from ridgeline.train.losses import cross_entropy
from tests.conftest import ROOT, make_images, make_mlp

BLOCKS = {
    re.match(r"# (\S+)\.py", text)[1]: text
    for text in re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
}


@pytest.fixture
def examples(monkeypatch):
    """The modules of the examples, imported under the names of their files."""
    registries = [(registry, dict(registry)) for registry in (MODELS, ATTACKS, FIGURES)]
    modules = {}
    for file, text in BLOCKS.items():
        name = "ridgeline." + file.replace("/", ".")
        modules[file] = module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(text, file, "exec"), module.__dict__)
    yield modules
    for registry, before in registries:
        registry.clear()
        registry.update(before)


def test_the_examples_are_short():
    assert BLOCKS.keys() == {
        "models/mlp", "train/attacks/corners", "analysis/margins", "run/calc_margins",
    }  # fmt: skip
    for text in BLOCKS.values():
        assert len(text.splitlines()) < 40
        assert max(map(len, text.splitlines())) <= 100


def test_the_attack_keeps_the_ball_and_its_examples_apart(examples):
    attack = parse_attack("name=corners,threshold=51,tries=5,order=-1")
    assert attack.eps == 0.2
    network = make_mlp().float()
    x, y, index = next(make_images(12).batches(12))
    found = attack(network, x, y, Noise(1, index))
    assert row_norm(found - x, attack.order).max() <= 0.2 + 1e-6
    before, after = (cross_entropy(network(z), y) for z in (x, found))
    assert (after >= before).all() and (after > before).any()
    alone = attack(network, x[3:5], y[3:5], Noise(1, index[3:5]))
    torch.testing.assert_close(alone, found[3:5])


def test_network_attack_and_diagnostic_work_together(examples, tmp_path, run_command):
    run = lambda *words: run_command(*words, check=True).stdout  # noqa: E731
    attack = ("--attack", "name=corners,threshold=0.1,tries=3")
    run("train_normal", "--model_type", "mlp", "--width", 1, "--epoch_num", 1, "--subset_size", 40,
        "--eval_size", 20, "--out_folder", "runs", "--model_name", "a", *attack)  # fmt: skip
    run("calc_hessian", "--model2load", "runs/a.ckpt", "--subset_size", 10, "--topk", 1)
    look = ("calc_margins", "--model2load", "runs/a.ckpt", "--subset_size", 20, *attack)
    said = run(*look)
    assert run(*look) == said  # the result is there
    ds = load_result(tmp_path / "runs/a_margins.nc", "margins")
    assert f"margin {float(ds['mean']):.4f} +- {float(ds['mean_se']):.4f}" in said
    assert len(ds["margin"]) == 20
    assert draw({"a": ds}).axes[0].get_xlabel() == "margin"
    run("plot", "--result", "runs/a_margins.nc")
    refused = run_command(*look[:-1], "name=corner,threshold=0.1")
    assert refused.returncode == 2
    assert "did you mean 'corners'" in refused.stderr


def test_the_margin_is_negative_where_the_network_is_right(examples):
    network = build_model("mlp", (1, 28, 28), width=1, num_classes=4)
    for p in network.parameters():
        p.data.zero_()
    network.classifier.bias.data[3] = 2.0  # whatever the image, class 3 leads by 2
    images = make_images(20, (1, 28, 28))
    ds = examples["analysis/margins"].margins(Problem(network, images))
    expected = [-2.0 if y == 3 else 2.0 for y in images.labels.tolist()]
    assert ds["margin"].values.tolist() == expected
    assert float(ds["mean"]) == pytest.approx(sum(expected) / 20)
