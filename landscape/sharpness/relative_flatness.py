"""Relative flatness of the last layer, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from ridgeline.landscape.problem import Problem
from ridgeline.landscape.sharpness.options import SharpnessOptions
from ridgeline.landscape.sharpness.view import Value, View
from ridgeline.models.copying import Replacements
from ridgeline.train.losses import Loss, cross_entropy, loss_of
from ridgeline.train.precision import exact


def relative_flatness(view: View, options: SharpnessOptions) -> Value:
    """sum_{s,t} <w_s, w_t> Tr(H_st) over the rows w_s of the last layer's weight W (C, D).

    H_st (D, D) is the block of the Hessian of the loss by rows s and t (Petzka et al. 2021). The
    sum equals the mean over examples of ||f||^2 Tr(W W' H_z), with features f (D). H_z (C, C) is
    the Hessian of the loss by the logits. For the cross-entropy it is diag p - p p' (Walter et al.
    2025, arXiv 2510.14231). The value is exact and needs one forward pass. The standard error is
    over examples. NaN for a network that does not end in a linear layer.
    """
    del options
    problem = view.problem
    name = last_linear(problem)
    if name is None:
        return view.nothing()
    view.forward += 1
    return view.mean(torch.cat([_of(problem, name, batch) for batch in problem.batches()]),
                     "examples")  # fmt: skip


def last_linear(problem: Problem) -> str | None:
    """The name of the linear layer whose output is the network's; None if there is none."""
    batch = problem.data.batch(torch.arange(1), problem.device, problem.dtype)
    names = [n for n, m in problem.network.named_modules() if type(m) is nn.Linear]
    seen: dict[str, Tensor] = {}

    def keep(name: str):
        def forward(module: nn.Linear, x: Tensor) -> Tensor:
            seen[name] = nn.Linear.forward(module, x)
            return seen[name]

        return forward

    instead: Replacements = {n: keep(n) for n in names}
    with torch.no_grad(), exact():
        output = problem.predict(problem.origin, instead=instead)(batch.x)
    same = [n for n, y in seen.items() if y.shape == output.shape and torch.equal(y, output)]
    return same[-1] if same and f"{same[-1]}.weight" in problem.origin else None


def _of(problem: Problem, name: str, batch) -> Tensor:
    """The measure (n,) of every example of a batch, in float64."""
    features: list[Tensor] = []

    def read(module: nn.Linear, x: Tensor) -> Tensor:
        features.append(x)
        return nn.Linear.forward(module, x)

    with torch.no_grad(), exact():
        logits = problem.predict(problem.origin, instead={name: read})(batch.x).double()
        weight = problem.origin[f"{name}.weight"].double()
        curvature = logit_hessians(loss_of(problem.loss), logits, batch.y)
        square = features[0].double().square().sum(1)
        return (square * torch.einsum("cd,ncd->n", weight @ weight.T, curvature)).cpu()


def logit_hessians(loss: Loss, logits: Tensor, y: Tensor) -> Tensor:
    """The Hessian (N, C, C) of every example's loss by its logits (N, C)."""
    if loss is cross_entropy:
        p = logits.softmax(1)
        return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]

    def one(z: Tensor, label: Tensor) -> Tensor:
        return loss(z[None], label[None])[0]

    # reverse mode twice: on some devices forward mode has no rule for log_softmax's backward
    return vmap(jacrev(jacrev(one)))(logits, y).detach()
