"""The rows of a Lanczos process: in half the memory, on a device, and when memory runs out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ridgeline.landscape.curvature import basis, memory
from ridgeline.landscape.curvature.basis import Rows
from ridgeline.landscape.curvature.density import lanczos_quadrature
from ridgeline.landscape.curvature.eigenpairs import top_eigenpairs
from ridgeline.landscape.curvature.gauss_newton import GaussNewton
from ridgeline.landscape.curvature.operators import Hessian, Matrix, dense
from ridgeline.landscape.curvature.total_hessian import TotalHessian
from ridgeline.landscape.problem import Problem
from ridgeline.models import InputError
from ridgeline.train.attacks import parse_attack
from tests.conftest import make_images, make_mlp
from tests.fake_device import DEVICE, Accelerator, OnDevice
from tests.test_eigenvalues import SPECTRA, quadratic

WIDE = np.r_[np.geomspace(1e-6, 1e2, 140), [1e3] * 3, [3e2] * 2, -5e2]
SPECTRA = {**SPECTRA, "wide": lambda n: WIDE}


@pytest.fixture
def halved(monkeypatch):
    """As on a GPU, and on a CPU for large networks: rows in float32."""
    monkeypatch.setattr(basis, "_SMALL", 0)


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
@pytest.mark.parametrize("name", SPECTRA)
def test_rows_in_float32_find_what_rows_in_float64_find(name, which, monkeypatch):
    """Sees orthogonality lost, and with it ghosts, missed copies or residuals that stall."""
    values = SPECTRA[name](150)
    if which == "SA" and name in ("decaying", "wide"):
        pytest.skip("a hundred values within a rounding of 0: no solver tells them apart")
    size, scale = len(values), np.abs(values).max() or 1.0
    ranks = {"LA": values, "SA": -values, "LM": np.abs(values)}[which]
    for k in (1, 3, 8):
        found = {}
        for kind, small in (("float64", 2**31), ("float32", 0)):
            monkeypatch.setattr(basis, "_SMALL", small)
            operator = quadratic(values, torch.float32)
            assert str(Rows(operator, 2).values.dtype) == f"torch.{kind}"
            found[kind] = top_eigenpairs(operator, k, which=which, tol=1e-6, copies=math.inf)
        ours, theirs = found["float32"], found["float64"]
        assert ours.converged.all()
        signs = -1 if which == "SA" else 1
        mine = np.abs(ours.values) if which == "LM" else signs * ours.values
        np.testing.assert_allclose(mine, np.sort(ranks)[::-1][:k], atol=4e-6 * scale)
        least = 10 * np.finfo(np.float32).eps * scale
        assert ours.residuals.max() <= max(2 * theirs.residuals.max(), least)
        np.testing.assert_allclose(ours.vectors.T @ ours.vectors, np.eye(k), atol=1e-6)
        assert ours.vectors.shape == (size, k)
        assert ours.products <= 1.5 * theirs.products + 20


def test_a_density_with_rows_in_float32_has_the_same_moments(monkeypatch):
    """Sees ghosts, which change the weights of the quadrature."""
    operator = quadratic(WIDE, torch.float32)
    wide = lanczos_quadrature(operator, probes=3, steps=40)
    monkeypatch.setattr(basis, "_SMALL", 0)
    half = lanczos_quadrature(operator, probes=3, steps=40)
    for power in range(1, 5):
        a, b = (q.mean(lambda v, p=power: (v / 1e3) ** p)[0] for q in (wide, half))
        assert b == pytest.approx(a, rel=2e-6)


def test_rows_of_a_float64_operator_stay_in_float64(halved):
    """Sees exact work rounded to save memory."""
    assert Rows(quadratic(WIDE), 4).values.dtype == torch.float64


#: how a failed allocation is said: on an accelerator, by torch on the host, by numpy
NO_MEMORY = [
    torch.OutOfMemoryError("pretended"), MemoryError("Unable to allocate 8 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
                 "allocate memory: you tried to allocate 576335584 bytes."),
]  # fmt: skip


class Short:
    """A device whose operations run out of memory above so many columns."""

    def __init__(self, columns: int):
        self.columns, self.refused = columns, 0

    def __call__(self, cut: slice) -> None:
        if cut.stop - cut.start > self.columns:
            self.refused += 1
            raise torch.OutOfMemoryError("pretended")


def test_pieces_that_run_out_of_memory_are_halved_and_nothing_counts_twice(halved, monkeypatch):
    """Sees an interrupted piece added to the sum once more."""
    diagonal = torch.linspace(-1, 1, 9000) ** 3
    operator = type("Diagonal", (Matrix,), {
        "__init__": lambda self: None, "matmat": lambda self, v: diagonal[:, None] * v,
    })()  # fmt: skip
    operator.shape, operator.dtype, operator.device = (9000, 9000), torch.float32, diagonal.device
    operator.products = 0
    calm = top_eigenpairs(operator, 2, max_iter=3)
    short, plain = Short(3000), Rows.by_pieces

    def refusing(self, step):
        def tried(cut):
            short(cut)
            step(cut)

        plain(self, tried)

    monkeypatch.setattr(Rows, "by_pieces", refusing)
    pressed = top_eigenpairs(operator, 2, max_iter=3)
    assert short.refused
    np.testing.assert_allclose(pressed.values, calm.values, atol=1e-6)
    np.testing.assert_allclose(pressed.residuals, calm.residuals, atol=1e-5)
    short.columns = 100
    with pytest.raises(torch.OutOfMemoryError):
        top_eigenpairs(operator, 2)


@pytest.mark.parametrize("free, where", [(10**12, DEVICE), (10**5, torch.device("cpu"))])
def test_rows_lie_on_the_device_while_there_is_room_and_on_the_host_else(free, where, monkeypatch):
    """Sees 8 GB of rows on the host, and a product's vector copied twice, where a GPU has room."""
    host = memory.free_bytes
    monkeypatch.setattr(basis, "free_bytes", lambda d: host(d) if d.type == "cpu" else free)
    values = SPECTRA["repeated"](150)
    expected = top_eigenpairs(quadratic(values, torch.float32), 4)
    with Accelerator():
        matrix = quadratic(values, torch.float32).matrix.to(DEVICE)
        rows = Rows(Matrix(matrix), 60, beside=60)
        assert rows.device == where
        assert isinstance(rows.values, OnDevice) == (where == DEVICE)
        found = top_eigenpairs(Matrix(matrix), 4)
    np.testing.assert_allclose(found.values, expected.values, atol=1e-5)
    assert found.converged.all()


def test_a_device_that_has_less_than_it_says_sends_the_rows_to_the_host(monkeypatch):
    """Sees an out-of-memory error where the host has room."""
    plain = torch.empty

    def empty(*size, device=None, **options):
        if device == DEVICE:
            raise torch.OutOfMemoryError("pretended")
        return plain(*size, **options)

    with Accelerator():
        matrix = torch.eye(90).to(DEVICE)
        monkeypatch.setattr(torch, "empty", empty)
        assert Rows(Matrix(matrix), 5).device.type == "cpu"


def test_one_process_without_room_sends_the_rows_of_all_to_the_host(monkeypatch):
    """Sees processes whose sums differ in the last bit decide differently and wait for ever."""
    monkeypatch.setattr(basis, "everywhere", lambda here: False)
    with Accelerator():
        assert Rows(Matrix(torch.eye(90).to(DEVICE)), 5).device.type == "cpu"


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("kind", [Hessian, GaussNewton, TotalHessian])
@pytest.mark.parametrize("most", [20, 6, 5, 1])
def test_an_operator_that_runs_out_of_memory_goes_on_with_less(kind, most, error, monkeypatch):
    """Sees a day's work end because another program took memory that was planned with."""
    attack = parse_attack("name=pgd,threshold=0.05,step_size=0.02,iter_num=2")
    problem = Problem(make_mlp(), make_images(20), batch_size=7,
                      attack=attack if kind is TotalHessian else None)  # fmt: skip
    expected = dense(kind(problem))
    record, product, refused = kind._record, kind._product, []

    def recorded(self, batch):
        if len(batch.y) > most:
            refused.append(len(batch.y))
            raise error
        return record(self, batch)

    operator = kind(problem)
    assert operator.graphs_kept == "3 of 3"
    full = [2]

    def short(self, graph, vector):  # other programs take what the kept graphs were to leave
        if full and self._kept:
            full.pop()
            raise error
        return product(self, graph, vector)

    monkeypatch.setattr(kind, "_record", recorded)
    monkeypatch.setattr(kind, "_product", short)
    torch.testing.assert_close(dense(operator), expected)
    assert bool(refused) == (most < 7)
    assert not operator._kept
    assert max(len(b.y) for b in operator._batches) <= most
    assert sum(len(b.y) for b in operator._batches) == 20


def test_graphs_are_given_up_where_the_plan_was_wrong(monkeypatch):
    """Sees an error where recording every batch anew would do."""
    problem = Problem(make_mlp(), make_images(20), batch_size=7)
    expected, record, calls = dense(Hessian(problem)), Hessian._record, []

    def recorded(self, batch):
        calls.append(len(batch.y))
        if len(calls) == 3:  # the second that is to be kept
            raise torch.OutOfMemoryError("pretended")
        return record(self, batch)

    monkeypatch.setattr(Hessian, "_record", recorded)
    operator = Hessian(problem)
    assert operator.graphs_kept == "0 of 3"
    torch.testing.assert_close(dense(operator), expected)


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda e: type(e).__name__)
def test_a_device_without_room_for_one_example_is_one_line(error, monkeypatch):
    """Sees a traceback, or a loop without end."""
    operator = Hessian(Problem(make_mlp(), make_images(20), batch_size=7))

    def full(self, graph, vector):
        raise error

    monkeypatch.setattr(Hessian, "_product", full)
    with pytest.raises(InputError, match="no memory for one example"):
        operator.matvec(torch.ones(operator.shape[0]))


def test_another_error_of_an_operator_is_not_called_a_lack_of_memory(monkeypatch):
    operator = Hessian(Problem(make_mlp(), make_images(20), batch_size=7))
    monkeypatch.setattr(
        Hessian, "_product", lambda *a: (_ for _ in ()).throw(RuntimeError("shape"))
    )
    with pytest.raises(RuntimeError, match="shape"):
        operator.matvec(torch.ones(operator.shape[0]))


def test_a_limit_of_the_process_is_seen(monkeypatch):
    """Sees memory planned for that `ulimit -v` forbids."""
    host = torch.device("cpu")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    used = pages * memory.resource.getpagesize()
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (used + 10**8, -1))
    assert 0 < memory.free_bytes(host) < 2 * 10**8
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (used // 2, -1))
    assert memory.free_bytes(host) == 0
    monkeypatch.setattr(memory, "_own_bytes", lambda: 10**18)
    assert memory.free_bytes(host) > 10**8


def test_rows_that_fit_nowhere_are_refused(monkeypatch):
    """Sees the kernel kill the process."""
    monkeypatch.setattr(basis, "free_bytes", lambda device: 1000)
    with pytest.raises(InputError, match="do not fit in the free memory"):
        top_eigenpairs(quadratic(WIDE), 2)
    with pytest.raises(InputError, match="do not fit in the free memory"):
        lanczos_quadrature(quadratic(WIDE), probes=1, steps=9)


def test_free_memory_counts_what_torch_holds_unused_and_the_other_processes(monkeypatch):
    """Sees a full cache taken for a full card, and eight ranks each plan with the whole host."""
    cuda = {"mem_get_info": (100, 900), "memory_reserved": 70, "memory_allocated": 30}
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert memory.free_bytes(torch.device("cuda", 0)) == 140
    monkeypatch.setattr(memory, "_host_bytes", lambda: 800)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert memory.free_bytes(torch.device("cpu")) == 800
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert memory.free_bytes(torch.device("cpu")) == 100
