"""One unit per command, independent streams per seed and purpose, and images in [0,1]."""

from __future__ import annotations

import ast
import importlib
import itertools

import numpy as np
import pytest
import torch

from ridgeline.analysis.adversaries import adversaries
from ridgeline.analysis.perturbations import similarity
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.weights.directions import random_direction
from ridgeline.landscape.weights.point import cosine, point_of
from ridgeline.models.errors import InputError
from ridgeline.train.attacks import ATTACKS, PGD, parse_attack
from ridgeline.train.data.noise import Noise, Purpose, another_seed, seeded, stream
from ridgeline.train.schedules import parse_schedule
from ridgeline.train.specs import Unit, number
from tests.commands import ROOT
from tests.conftest import make_images, make_mlp

SOURCES = [
    path
    for folder in ("models", "train", "landscape", "analysis", "run")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
PGD_AT = "name=pgd,iter_num=3,threshold="


@pytest.fixture
def budgets_of(monkeypatch):
    budgets = importlib.import_module("ridgeline.run.shared.budgets")
    return lambda attack, text: budgets.budgets_of(text, parse_attack(PGD_AT + attack))


@pytest.mark.parametrize(
    ("attack", "text", "expected"),
    [
        ("8", "name=linear,start_v=0,slope=0.5,pt_num=3", [0, 0.5 / 255, 1 / 255]),
        ("8", "0,0.5,1", [0, 0.5 / 255, 1 / 255]),
        ("8", "0,1/255,0.5/255", [0, 1 / 255, 0.5 / 255]),
        ("0.1", "0,0.1,0.3", [0, 0.1, 0.3]),
        ("0.1", "name=linear,start_v=0,slope=0.1,pt_num=3", [0, 0.1, 0.2]),
        ("0.1", "0,1", [0, 1]),
        ("0.1", "0,8/255", [0, 8 / 255]),
        ("1/255", "0.25/255,0.5/255", [0.25 / 255, 0.5 / 255]),
        ("8/255", "0,4,8", [0, 4 / 255, 8 / 255]),
    ],
)
def test_bare_budgets_are_in_the_unit_of_the_attack(budgets_of, attack, text, expected):
    """Sees two options of one command read in different units (asked /255, got the whole range)."""
    assert budgets_of(attack, text) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("attack", "text", "said"),
    [
        ("1/255", "name=exp,start_v=0.25,power=2,pt_num=6", "0.25/255"),
        ("8/255", "0,0.03", "0.03/255"),
        ("0.1", "0,4", "in fractions of [0,1]"),
        ("0.1", "name=linear,start_v=0,slope=2,pt_num=3", "in fractions"),
        ("0.1", "name=exp,start_v=0.3,power=2,pt_num=4", "at most 1"),
        ("0.1", "0,3/2", "at most 1"),
        ("8", "0,-1", "must not be negative"),
        ("8", "0,x", "a number or a fraction"),
        ("8", "0,,4", "a number or a fraction"),
        ("8", "4,4", "twice"),
        ("0.5,order=2", "0,1.5", "write budget 2=1.5/1"),
        ("3/2,order=2", "0.5,1.5", "1.5/255 for grey levels"),
        ("3/2,order=2", "name=linear,start_v=0,slope=2,pt_num=3", "not clear beside the l_2 norm"),
    ],
)
def test_budgets_whose_unit_or_size_is_not_clear_are_refused(budgets_of, attack, text, said):
    """Sees a budget of 8 times the pixel range pass as a number."""
    with pytest.raises(InputError, match=said.replace("[", r"\[")):
        budgets_of(attack, text)


def test_schedules_of_training_follow_the_unit_of_the_attack():
    """Sees training at 0.5 of the range where 0.5/255 was asked for."""
    text = "name=linear,start_v=0,slope=0.5"
    for attack, at_two in (("8", 1 / 255), ("0.1", 1.0)):
        unit = parse_attack(PGD_AT + attack).unit
        schedule = parse_schedule(text, "--eps", budget=True, beside=unit)
        assert schedule(2) == pytest.approx(at_two, rel=1e-15)
    assert parse_attack(PGD_AT + "8").unit is Unit.GREY
    assert parse_attack(PGD_AT + "8") == parse_attack(PGD_AT + "8/255")  # a spelling, no quantity
    assert "unit" not in repr(parse_attack(PGD_AT + "8"))


def test_radii_above_the_pixel_range_exist_in_l2_only():
    """Sees an l_inf radius above 1 accepted."""
    assert parse_attack(PGD_AT + "3/2,order=2").eps == 1.5
    for spec, beside in (("1.5", Unit.UNSET), ("0.5", Unit.GREY)):
        with pytest.raises(InputError, match=r"for these or threshold=.*/255 for grey levels"):
            parse_attack(f"{PGD_AT}{spec},order=2", beside=beside)
    for make in (
        lambda: parse_attack(PGD_AT + "3/2"),
        lambda: PGD(eps=1.5, iterations=1),
        lambda: PGD(eps=0.5, iterations=1).at(2),
    ):
        with pytest.raises(InputError, match="at most 1"):
            make()


def test_quotients_of_any_two_numbers_are_numbers():
    """Sees 0.25/255 refused because its parts are not whole."""
    assert number("0.25/255", "x") == 0.25 / 255
    for wrong in ("1/0", "1/2/3", "a/2", "inf/2", "1/"):
        with pytest.raises(InputError):
            number(wrong, "x")


def test_streams_of_all_seeds_purposes_and_counters_differ():
    """Sees two draws that share numbers, as seed + n did."""
    keys = itertools.product(range(4), Purpose, range(3), range(3))
    draws = [stream(s, p, a, b).integers(2**63) for s, p, a, b in keys]
    assert len(set(draws)) == len(draws)
    assert len({another_seed(s, n) for s in range(50) for n in range(50)}) == 2500
    for wrong in (-1, 2**64):
        with pytest.raises(InputError, match="seed"):
            stream(wrong, Purpose.ATTACK)


def test_seeds_next_to_each_other_give_independent_perturbations_and_directions():
    """Sees the cosine 0.787 of perturbations that should be independent."""
    network, images = make_mlp().float(), make_images(200)
    attack = PGD(eps=1e-3, iterations=1, step_size=1e-9, keep_best=False)  # its random start alone
    found = {
        seed: adversaries({"test": Problem(network, images, seed=seed)}, attack, draws=2)
        for seed in (0, 1)
    }
    pairs = itertools.combinations(
        [torch.from_numpy(ds["perturbation"].values[d]) for ds in found.values() for d in (0, 1)], 2
    )
    for a, b in pairs:
        assert abs(similarity(a, b).cosine.mean()) < 5 / np.sqrt(200 * 36)
    point = point_of(make_mlp(hidden=400))
    directions = [
        random_direction(point, seed, "none", number=n) for seed in (0, 1, 2) for n in (0, 1, 2)
    ]
    size = sum(p.numel() for p in point.values())
    for a, b in itertools.combinations(directions, 2):
        assert abs(cosine(a, b)) < 5 / np.sqrt(size)


def test_training_and_evaluation_never_share_an_attack_s_noise():
    """Sees epoch 0 of training start its attacks where the evaluation does."""
    x, index = torch.zeros(3, 1, 4, 4), torch.arange(3)
    evaluation = Noise(0, index).uniform(x)
    training = Noise(0, index, 0, Purpose.TRAINING_ATTACK).uniform(x)
    assert not torch.equal(evaluation, training)


def _calls(tree: ast.AST, name: str):
    for node in ast.walk(tree):
        called = getattr(node, "func", None)
        if isinstance(node, ast.Call) and getattr(called, "id", None) == name:
            yield node


def test_every_draw_in_the_source_names_its_purpose():
    """Sees a new stream keyed by a bare number, or a seed that is counted up."""
    found = 0
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        for name in ("stream", "number_of", "generator_of"):
            for call in _calls(tree, name):
                if path.name == "noise.py":
                    continue
                purpose = call.args[1]
                assert isinstance(purpose, ast.Attribute), (path, ast.unparse(call))
                assert purpose.value.id == "Purpose", (path, ast.unparse(call))
                found += 1
        for node in ast.walk(tree):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
                for side in (node.left, node.right):
                    last = getattr(side, "attr", getattr(side, "id", ""))
                    assert last != "seed", (path, ast.unparse(node))
    assert found > 20


def test_global_generators_come_back_as_they_were():
    """Sees a tool that leaves torch's global random state moved or seeded."""
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with seeded(3):
        first = torch.rand(2)
    assert torch.equal(torch.rand(3), expected)
    with seeded(3):
        assert torch.equal(torch.rand(2), first)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("shift", [-0.5, 0.5, float("nan")])
def test_no_attack_takes_images_outside_the_pixel_range(name, shift):
    """Sees eps = 1e-6 move a pixel by 1.8: normalised images clipped to [0,1]."""
    options = "" if name in ("fgsm", "rfgsm", "nfgsm", "autoattack") else ",iter_num=2"
    attack = parse_attack(f"name={name},threshold=1/255{options}")
    x = make_images(4).pixels.float() + shift
    with pytest.raises(InputError, match="--normalize"):
        attack(make_mlp().float(), x, torch.zeros(4, dtype=torch.long))
