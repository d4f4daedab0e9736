"""Compute eigenpairs, spectral density and trace of the curvature of clean or adversarial loss."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import xarray as xr

from ridgeline.landscape.batchnorm import POLICIES, statistics_at
from ridgeline.landscape.curvature.cells import Setting, cells_of, compute_all, finish
from ridgeline.landscape.curvature.measures import ADVERSARIES, OPERATORS, Measures, blocks_of
from ridgeline.landscape.distributed import join, leader, shard
from ridgeline.landscape.result import claim, save_result, stamp
from ridgeline.models import InputError, unknown
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import attack_of, budgets_of, say_budgets
from ridgeline.run.shared.launch import launch
from ridgeline.train.progress import progress

#: torchrun may run it in several processes, each with its share of the examples
SHARED = True


def main(
    *,
    model2load: o.Model2Load,
    network: o.Network,
    machine: o.Machine,
    subset: o.Subset = "train",
    subset_size: o.SubsetSize = None,
    out_file: o.OutFile = None,
    attack: o.Attack = None,
    adv_budget_list: o.Budgets = None,
    adversary: Annotated[
        str, "images frozen, refined to their maximum, or total: they follow the weights"
    ] = "frozen",
    operator: Annotated[str, "hessian, ggn, fisher, mc_fisher, input"] = "hessian",
    blocks: Annotated[str | None, "globs 'a.*,b.*', each: every layer; None: all as one"] = None,
    topk: Annotated[int, "number of eigenpairs"] = 1,
    max_iter: Annotated[int, "restarts of the Lanczos process"] = 50,
    tol: Annotated[float, "relative residual of a converged pair; 0: as rounding allows"] = 1e-4,
    which: Annotated[str, "LA largest, SA smallest, LM largest magnitude"] = "LA",
    density_probes: Annotated[int, "probes of the spectral density; 0: none"] = 0,
    density_steps: Annotated[int, "Lanczos steps per probe"] = 80,
    trace_products: Annotated[int, "products spent on the trace; 0: none"] = 0,
    trace_estimator: Annotated[str, "hutchinson, hutchpp or xtrace"] = "hutchinson",
    diagonal_products: Annotated[int, "products spent on the diagonal; 0: none"] = 0,
    estimator: Annotated[str, "ridgeline, or pyhessian as an independent check"] = "ridgeline",
    weight_decay: Annotated[float, "add (weight_decay / 2) ||theta||^2 to the loss"] = 0.0,
    batchnorm: o.BatchNorm = "keep",
    memory: Annotated[float | None, "GiB the products may use; None: half of what is free"] = None,
    precision: Annotated[str, "float32, float64, or tf32 (CUDA: faster, less exact)"] = "float32",
) -> None:
    """Eigenpairs with residuals, density with its band, trace with its error; resumes when killed.

    Every budget of --adv_budget_list and every block gets a spectrum of its own. Eigenvectors are
    written as directions for scan_param and perturb_param. Runs under torchrun.
    """
    networks.positive(max_iter=max_iter)
    attacker = attack_of(attack)
    budgets = budgets_of(adv_budget_list, attacker)
    for name, value, known in (
        ("--operator", operator, OPERATORS), ("--adversary", adversary, ADVERSARIES),
        ("--batchnorm", batchnorm, POLICIES), ("--precision", precision, networks.PRECISIONS),
    ):  # fmt: skip
        if value not in known:
            raise unknown(name, value, known)
    if memory is not None and not memory > 0:
        raise InputError(f"--memory must be positive, got {memory:g}")
    if weight_decay < 0:
        raise InputError(f"--weight_decay must not be negative, got {weight_decay:g}")
    measures = Measures(
        topk, which, tol, max_iter, density_probes, density_steps, trace_products,
        trace_estimator, estimator, diagonal_products,
    )  # fmt: skip
    if adversary == "total" and (attacker is None or operator != "hessian"):
        raise InputError("--adversary total needs --attack and --operator hessian")
    if adversary == "refined" and attacker is None:
        raise InputError("--adversary refined needs --attack")
    if operator == "input" and (blocks or weight_decay or diagonal_products):
        raise InputError(
            "--operator input knows no --blocks, no --weight_decay and no --diagonal_products"
        )
    subject = networks.open_network(model2load, network, "lenet")
    images = subject.images(subset, subset_size)
    problem = subject.problem(images, attacker, machine)
    problem = networks.moved(
        problem, problem.device, networks.use_precision(precision, problem.device)
    )
    names = blocks_of(problem.origin, blocks)
    if operator == "input":
        sizes = {"pixels of an image": math.prod(images.image_shape)}
    else:
        sizes = {f"parameters of block {block}": sum(problem.origin[n].numel() for n in parts)
                 for block, parts in names.items()}  # fmt: skip
    for what, size in sizes.items():
        if topk > size:
            raise InputError(f"--topk must lie in 1..{size}, the number of {what}, got {topk}")
    recipe = subject.recipe("calc_hessian", images, attacker, machine.seed)
    recipe |= {"measures": repr(measures), "bn": batchnorm, "adversary": adversary,
               "operator": operator, "blocks": names, "budgets": budgets,
               "weight_decay": weight_decay, "precision": precision}  # fmt: skip
    trained = subject.checkpoint.recipe or {}
    recipe["epoch"] = trained.get("epoch", trained.get("epochs"))
    path = networks.output_path(out_file, model2load, "hessian")
    ds = claim(path, recipe, machine.overwrite)
    setting = Setting(operator, adversary, measures)
    cells = cells_of(path, recipe, budgets, images, setting, names)
    if ds is None:
        for cell in cells:
            cell.claim(machine.overwrite)
        device = join(problem.device)
        if leader():
            networks.say_clean(problem)
            say_budgets(adv_budget_list, budgets, attacker)
        if operator != "input":
            problem = networks.moved(problem, device, problem.dtype)
            problem = problem.on(shard(images, networks.unit_of(attacker)))
        buffers = statistics_at(problem, problem.origin, batchnorm)
        options = {"memory": None if memory is None else int(memory * 2**30), "buffers": buffers,
                   "weight_decay": weight_decay}  # fmt: skip
        with progress(None, "curvature", "image", quiet=not leader()) as bar:
            parts = compute_all(cells, problem, setting, options, bar)
        ds = finish(parts, images, budgets, cells)
        what = ADVERSARIES[adversary] if any(budgets) else "clean loss"
        stamp(ds, "hessian", recipe, hessian=f"{OPERATORS[operator]}, {what}",
              checkpoint=model2load, estimator=estimator)  # fmt: skip
        if leader():
            save_result(ds, path)
            for cell in cells:
                cell.clear()
    if leader():
        report(ds)
        print(f"{ds.attrs['hessian']}; result in {path}")


def report(ds: xr.Dataset) -> None:
    """Print every spectrum: eigenvalues with residuals, trace with its error."""
    for eps in ds["eps"].values:
        for block in ds["block"].values:
            here = ds.sel(eps=eps, block=block)
            if ds.sizes["eps"] * ds.sizes["block"] > 1:
                print(f"eps {eps:g}, {block} ({int(here['parameters'])} parameters)")
            for rank in ds["rank"].values if "rank" in ds else []:
                row = here.sel(rank=rank)
                value, residual = float(row["eigenvalue"]), float(row["residual"])
                odd = "" if bool(row["converged"]) else "NOT CONVERGED, "
                why = odd + row["reason"].item()
                print(f"{rank:4d}  {value: .6e}  residual {residual:.1e}  {why}")
            if "trace" in ds:
                error, by = float(here["trace_se"]), here["trace_estimator"].item()
                print(f"trace {float(here['trace']):.6g} +- {error:.2g} ({by})")
            if not np.isnan(float(here["share_regular"])):
                share = float(here["share_regular"])
                rest = float(here["stationarity"])
                print(
                    f"{share:.1%} of the inner maxima settled and strict (the rest frozen), "
                    f"gradient left there {rest:.2g} of the whole"
                )


if __name__ == "__main__":
    launch(main)
