"""The distance of the loss from its linearisation within the attack's budget."""

from __future__ import annotations

import torch
from torch import Tensor

from ridgeline.landscape.sharpness.options import SharpnessOptions
from ridgeline.landscape.sharpness.view import Value, View
from ridgeline.train.attacks import Attack
from ridgeline.train.attacks.norms import project, random_start, steepest
from ridgeline.train.data.examples import Batch
from ridgeline.train.data.noise import Noise, Purpose
from ridgeline.train.losses import loss_of
from ridgeline.train.precision import exact


def local_linearity(view: View, options: SharpnessOptions) -> Value:
    """Max |l(x + d) - l(x) - d . grad l(x)| over the ball of the attack, mean over examples.

    Qin et al. 2019, equation 5, by ascent in `linearity_steps` steps from a random start. x are the
    view's images; x + d is clipped to [0,1]. The standard error is over examples. NaN without an
    attack, because the attack gives the budget.
    """
    attack = view.attack
    if attack is None or attack.eps == 0:
        return view.nothing()
    steps = options.linearity_steps
    view.forward += steps + 2
    view.backward += steps + 1
    found = [_departure(view, batch, attack, steps) for batch in view.problem.batches()]
    return view.mean(torch.cat(found), "examples")


@exact()
def _departure(view: View, batch: Batch, attack: Attack, steps: int) -> Tensor:
    """The largest distance (n,) found for every example."""
    predict, loss = view.problem.predict(view.origin), loss_of(view.problem.loss)
    eps, order, x = attack.eps, attack.order, batch.x

    def losses(images: Tensor) -> Tensor:
        return loss(predict(images), batch.y)

    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        base = losses(leaf)
        (slope,) = torch.autograd.grad(base.sum(), leaf)
    base = base.detach()
    noise = Noise(view.seed, batch.index, purpose=Purpose.LINEARITY)
    d = random_start(x, eps, order, noise, 0) - x
    best = torch.zeros_like(base)
    for number in range(steps + 1):
        last = number == steps
        with torch.set_grad_enabled(not last):
            d = d.detach().requires_grad_(not last)
            departure = (losses(x + d) - base - (d * slope).flatten(1).sum(1)).abs()
        best = torch.maximum(best, departure.detach())
        if last:
            break
        (gradient,) = torch.autograd.grad(departure.sum(), d)
        with torch.no_grad():
            step = 2.5 * eps / steps * steepest(gradient, order)
            d = (x + project(d + step, eps, order)).clamp(0, 1) - x
    return best.double().cpu()
