"""Compute the top eigenpairs of the Hessian of the clean or adversarial loss."""

from __future__ import annotations

from typing import Annotated

import build
import options as o
import torch
from launch import launch

from landscape.batchnorm import statistics_at
from landscape.point import unflatten
from landscape.result import claim, save_result, stamp
from landscape.spectrum import ENDS, eigenpairs_dataset, hessian_of, top_eigenpairs
from models import InputError, unknown
from train.checkpoint import claim_checkpoint, save_checkpoint
from train.progress import progress


def main(
    *,
    model2load: o.Model2Load,
    network: o.Network,
    machine: o.Machine,
    subset: o.Subset = "train",
    subset_size: o.SubsetSize = None,
    out_file: o.OutFile = None,
    attack: o.Attack = None,
    topk: Annotated[int, "number of eigenpairs"] = 1,
    max_iter: Annotated[int, "restarts of the Lanczos process"] = 50,
    tol: Annotated[float, "relative residual at which a pair has converged"] = 1e-4,
    which: Annotated[str, "LA largest, SA smallest, LM largest magnitude"] = "LA",
    batchnorm: o.BatchNorm = "keep",
    memory: Annotated[float, "GiB for first-order graphs kept between products"] = 1.0,
) -> None:
    """Top eigenpairs with residuals; writes a result file and every eigenvector as a direction.

    Under an attack the Hessian is that of the loss on adversarial images frozen at the checkpoint.
    """
    build.positive(topk=topk, max_iter=max_iter)
    if which not in ENDS:
        raise unknown("--which", which, ENDS)
    attacker = build.attack_of(attack)
    subject = build.open_network(model2load, network, "mnist", "lenet")
    images = subject.images(subset, subset_size)
    problem = subject.problem(images, attacker, machine)
    size = sum(p.numel() for p in problem.origin.values())
    if topk > size:
        raise InputError(f"--topk must lie in 1..{size}, the number of parameters, got {topk}")
    recipe = subject.recipe("calc_hessian", images, attacker, machine.seed)
    recipe |= {"topk": topk, "tol": tol, "max_iter": max_iter, "which": which, "bn": batchnorm}
    path = build.output_path(out_file, model2load, "hessian")
    ds = claim(path, recipe, machine.overwrite)
    vectors = [path.with_name(f"{path.stem}_vec{number}.ckpt") for number in range(topk)]
    recipes = [{**recipe, "kind": "direction", "number": number} for number in range(topk)]
    if ds is None:
        for target, wanted in zip(vectors, recipes, strict=True):
            claim_checkpoint(target, wanted, machine.overwrite)
        buffers = statistics_at(problem, problem.origin, batchnorm)
        with progress(None, "Hessian", "image") as bar:
            operator = hessian_of(
                problem, memory=int(memory * 2**30), buffers=buffers, tick=bar.update
            )
            pairs = top_eigenpairs(
                operator, topk, which=which, tol=tol, max_iter=max_iter, seed=machine.seed
            )
        for target, wanted, vector in zip(vectors, recipes, pairs.vectors.T, strict=True):
            point = unflatten(torch.tensor(vector, dtype=torch.float32), problem.origin)
            save_checkpoint(target, point, wanted)
        ds = eigenpairs_dataset(operator, pairs)
        which_hessian = "adversarial loss, images frozen" if attacker else "clean loss"
        stamp(ds, "hessian", recipe, hessian=which_hessian, checkpoint=model2load)
        save_result(ds, path)
    for rank, value, residual, ok in zip(
        ds["rank"].values, ds["eigenvalue"].values, ds["residual"].values, ds["converged"].values,
        strict=True,
    ):  # fmt: skip
        print(f"{rank:4d}  {value: .6e}  residual {residual:.1e}{'' if ok else '  NOT CONVERGED'}")
    print(f"Hessian of the {ds.attrs['hessian']}; result in {path}")


if __name__ == "__main__":
    launch(main)
