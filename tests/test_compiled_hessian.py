"""Products by compiled code: the usual ones up to rounding, or not used."""

from __future__ import annotations

import shutil

import pytest
import torch

from ridgeline.landscape.curvature import compiled_hessian
from ridgeline.landscape.curvature.compiled_hessian import CompiledHessian
from ridgeline.landscape.curvature.measures import SpectrumOptions
from ridgeline.landscape.curvature.operators import Hessian, dense
from ridgeline.landscape.curvature.questions import spectrum
from ridgeline.landscape.problem import Problem
from ridgeline.models import InputError
from tests.conftest import make_conv_bn, make_images, make_mlp

COMPILER = pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")


def problem_of(network=None) -> Problem:
    return Problem(network or make_conv_bn(), make_images(20), batch_size=7)


@pytest.fixture
def uncompiled(monkeypatch):
    """The same function without the compiler, which takes 40 s."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)


@COMPILER
def test_compiled_products_are_the_usual_ones():
    """Sees a last batch filled up and counted, weights in another order, BatchNorm's batches."""
    operator = CompiledHessian.of(problem_of())
    assert operator.evaluation == "compiled, forward over reverse"
    assert operator.graphs_kept == "0 of 3"
    torch.testing.assert_close(
        dense(operator), dense(Hessian(problem_of())), rtol=1e-10, atol=1e-13
    )


@pytest.mark.parametrize("options", [
    {}, {"parameters": ["conv.weight", "head.bias"]}, {"weight_decay": 0.3},
])  # fmt: skip
@pytest.mark.parametrize("count", [1, 7, 20, 21])
def test_forward_over_reverse_is_the_hessian(count, options, uncompiled):
    """Of all parameters and of some, whatever the size of the last batch."""
    problem = problem_of().on(make_images(count))
    operator = CompiledHessian.of(problem, **options)
    assert operator.evaluation == "compiled, forward over reverse"
    exact = Hessian(problem, **options)
    torch.testing.assert_close(dense(operator), dense(exact), rtol=1e-10, atol=1e-13)
    assert operator.loss() == exact.loss()


def test_wrong_products_of_the_compiler_are_not_used(monkeypatch):
    """Sees what inductor has done: a number wrong by a share, without an error."""

    def wrong(function, **options):
        def compiled(*args):
            parts = function(*args)
            name = min(parts, key=lambda n: parts[n].norm())
            return {**parts, name: parts[name] * 1.01}

        return compiled

    monkeypatch.setattr(torch, "compile", wrong)
    operator = CompiledHessian.of(problem_of(make_mlp()))
    assert type(operator) is Hessian
    assert operator.evaluation.endswith("not compiled: its products are not right")


def test_without_a_compiler_the_usual_products_are_taken_and_the_result_says_so(monkeypatch):
    """Sees a run end for want of a compiler, or a record of compiled numbers that are not."""

    def missing(*args, **options):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", missing)
    usual = spectrum(problem_of(make_mlp()), SpectrumOptions(topk=2))
    found = spectrum(problem_of(make_mlp()), SpectrumOptions(topk=2), compile=True)
    assert "not compiled: RuntimeError" in str(found["evaluation"].values)
    assert "compile" not in str(usual["evaluation"].values)
    assert (found["eigenvalue"] == usual["eigenvalue"]).all()
    assert found.attrs["recipe"] != usual.attrs["recipe"]


def test_a_spectrum_by_compiled_products(uncompiled, monkeypatch):
    """Sees the option ignored."""
    calls, product = [], CompiledHessian._product
    monkeypatch.setattr(CompiledHessian, "_product", lambda *a: calls.append(1) or product(*a))
    found = spectrum(problem_of(), SpectrumOptions(topk=2), compile=True)
    usual = spectrum(problem_of(), SpectrumOptions(topk=2))
    assert len(calls) > int(found["products"])
    torch.testing.assert_close(*(torch.tensor(d["eigenvalue"].values) for d in (found, usual)))


def test_memory_that_runs_out_halves_the_batches(uncompiled, monkeypatch):
    """Sees a batch filled up to the size that did not fit."""
    operator, product = CompiledHessian.of(problem_of()), CompiledHessian._product
    expected = dense(operator)

    def short(self, graph, vector):
        if self._rows > 3:
            raise torch.OutOfMemoryError("pretended")
        return product(self, graph, vector)

    monkeypatch.setattr(CompiledHessian, "_product", short)
    torch.testing.assert_close(dense(operator), expected)
    assert compiled_hessian.CompiledHessian.keeps is False


@pytest.mark.parametrize("options", [{"operator": "ggn"}, {"adversary": "total"}])
def test_other_matrices_cannot_be_compiled(options):
    """Sees the option ignored where it means nothing."""
    problem = problem_of().under("name=fgsm,threshold=0.1")
    with pytest.raises(InputError, match="--compile is for"):
        spectrum(problem, SpectrumOptions(), compile=True, **options)
