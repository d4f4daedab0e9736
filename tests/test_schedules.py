"""Schedules at their knots and corners, and the units of budgets."""

from __future__ import annotations

import math

import pytest

from ridgeline.models import InputError
from ridgeline.train.schedules import parse_schedule
from ridgeline.train.specs import resolve_budgets

README_LR = "name=jump,min_jump_pt=100,jump_freq=50,power=0.1,start_v=1e-1"
README_PAS = "name=cycle_cos,eps_min=0,eps_max=0.6,ckpt_list=0:100,max=0.4"


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ("name=constant,start_v=0.3", {0: 0.3, 7.5: 0.3}),
        ("name=linear,start_v=0.1,slope=0.02", {0: 0.1, 2.5: 0.15, 10: 0.3}),
        ("name=linear,start_v=1,slope=-0.3,min=0.2", {2: 0.4, 3: 0.2}),
        ("name=exp,start_v=1,power=0.5", {0: 1, 1: 0.5, 2: 0.25}),
        ("name=exponential,start_v=1,power=0.25,interval=2", {1: 0.5, 2: 0.25, 4: 0.0625}),
        (README_LR, {0: 0.1, 99.99: 0.1, 100: 0.01, 149: 0.01, 150: 0.001, 199: 0.001}),
        ("name=jump,start_v=1,power=0.5,min_jump_pt=0,jump_freq=2", {0: 0.5, 1.9: 0.5, 2: 0.25}),
        (
            "name=cos_cycle_jump,low_v=0,up_v=1,cycle_freq=10,min_jump_pt=20",
            {0: 1, 20: 1, 25: 0.5, 30: 1, 35: 0.5, 29.999999: 0},
        ),
        ("name=cycle_linear,start_v=1,slope=2,ckpt_list=10:20", {0: 1, 5: 2, 10: 1, 20: 3, 25: 3}),
        ("name=cycle_exp,start_v=2,power=0.25,ckpt_list=0:4", {-1: 2, 0: 2, 2: 1, 4: 0.5, 9: 0.5}),
        (
            "name=cycle_jump,start_v=1,power=0.1,drop_point_list=0.5:0.75,ckpt_list=0:100:150",
            {0: 1, 50: 0.1, 75: 0.01, 100: 1, 125: 0.1, 150: 0.01, 400: 0.01},
        ),
        (README_PAS, {0: 0, 10: 0.0147, 25: 0.0879, 50: 0.3, 60: 0.3927, 61: 0.4, 100: 0.4}),
        (
            "name=cycle_cos,eps_min=0,eps_max=0.1,ckpt_list=0:100:150:200",
            {0: 0, 50: 0.05, 100: 0, 125: 0.05, 150: 0, 199.9999: 0.1, 200: 0.1, 201: 0.1},
        ),
        ("name=cycle_cos,eps_min=0.1,eps_max=0.3,ckpt_list=8", {0: 0.1, 4: 0.2, 8: 0.3}),
    ],
)
def test_values(spec, values):
    schedule = parse_schedule(spec, "--s")
    for epoch, value in values.items():
        assert schedule(epoch) == pytest.approx(value, abs=5e-5), epoch


def test_a_ramp_in_grey_levels_is_monotone_and_in_units():
    """The reference reads this ramp's values below 1 as fractions of the full range."""
    spec = "name=cycle_cos,eps_min=0,eps_max=16,max=8,ckpt_list=0:100:150:200"
    schedule = parse_schedule(spec, "--s", budget=True)
    values = [schedule(epoch / 4) * 255 for epoch in range(400)]
    assert values == sorted(values)
    assert max(values) == pytest.approx(8)
    assert schedule(1) * 255 == pytest.approx(8 * (1 - math.cos(math.pi / 100)))


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({"threshold": "8", "step_size": "2"}, (8 / 255, 2 / 255)),
        ({"threshold": "8", "step_size": "1"}, (8 / 255, 1 / 255)),
        ({"threshold": "8", "step_size": "0.5"}, (8 / 255, 0.5 / 255)),
        ({"threshold": "0.4", "step_size": "0.01"}, (0.4, 0.01)),
        ({"threshold": "8/255", "step_size": "2/255"}, (8 / 255, 2 / 255)),
        ({"threshold": "8/255", "step_size": "0.01"}, (8 / 255, 0.01)),
        ({"threshold": "255/255", "step_size": "0.5"}, (1.0, 0.5)),
        ({"threshold": "0", "step_size": "0.5"}, (0.0, 0.5)),
    ],
)
def test_units_are_settled_for_the_whole_spec(spec, wanted):
    resolved = resolve_budgets(spec, {"threshold", "step_size"}, "--attack")
    assert (resolved["threshold"], resolved["step_size"]) == pytest.approx(wanted, rel=1e-15)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"threshold": "8", "step_size": "2/255"}, "mixed units.*8/255"),
        ({"threshold": "1", "step_size": "0.5"}, "1/255.*255/255"),
        ({"threshold": "1"}, "ambiguous"),
        ({"threshold": "-0.1"}, "must not be negative"),
        ({"threshold": "nan"}, "finite"),
        ({"threshold": "eight"}, "number or a fraction"),
        ({"threshold": "1/0"}, "number or a fraction"),
    ],
)
def test_unclear_budgets_are_refused(spec, message):
    with pytest.raises(InputError, match=message):
        resolve_budgets(spec, {"threshold", "step_size"}, "--attack")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("name=cosine,start_v=1", "unknown schedule"),
        ("start_v=1", "unknown schedule"),
        ("name=linear,start_v=1", "needs slope"),
        ("name=constant,start_v=1,foo=2", "allowed: .*start_v"),
        ("name=constant,start_v=1,start_v=2", "given twice"),
        ("name=constant,start_v", "cannot read"),
        ("name=constant,start_v=1,min=3,max=2", "exceeds"),
        ("name=cycle_cos,eps_min=0,eps_max=1,ckpt_list=0:50:50", "increasing"),
        ("name=jump,start_v=1,power=0.1,min_jump_pt=1,jump_freq=0", "positive"),
    ],
)
def test_malformed_schedules_are_refused(spec, message):
    with pytest.raises(InputError, match=message):
        parse_schedule(spec, "--s")


def test_readme_pas_eps_of_a_linear_budget_schedule_may_fall():
    spec = "name=linear,start_v=8,slope=-1,min=0"
    schedule = parse_schedule(spec, "--s", budget=True)
    assert schedule(3) * 255 == pytest.approx(5)
    assert schedule(30) == 0
