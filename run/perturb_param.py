"""Write a checkpoint moved along a direction: theta + s v."""

from __future__ import annotations

from typing import Annotated

from ridgeline.landscape.weights.directions import random_direction, unit
from ridgeline.landscape.weights.point import add, norm, point_of, state_at
from ridgeline.models import InputError
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.directions import load_direction
from ridgeline.run.shared.launch import launch
from ridgeline.train.files.checkpoint import claim_checkpoint, save_checkpoint


def main(
    *,
    model2load: o.Model2Load,
    network: o.Network,
    machine: o.Machine,
    vec2load: o.Direction = None,
    eigenvec_idx: Annotated[int, "eigenvector to take from a Hessian result"] = 0,
    vec_scale: Annotated[float, "step s along the direction"] = 1.0,
    out_folder: o.OutFolder = None,
    model_name: o.OutName = None,
) -> None:
    """Move the parameters; a Gaussian direction has Euclidean norm 1, buffers stay as they are."""
    networks.positive(batch_size=machine.batch_size)
    networks.device_of(machine.gpu)  # checked like everywhere; the addition itself needs no GPU
    if vec_scale == 0:
        raise InputError("--vec_scale 0 moves nothing; name another step")
    if eigenvec_idx < 0:
        raise InputError(f"--eigenvec_idx must be 0 or more, got {eigenvec_idx}")
    if eigenvec_idx and not (vec2load or "").endswith(".nc"):
        raise InputError("--eigenvec_idx picks one of a Hessian result: --vec2load FILE.nc")
    subject = networks.open_network(model2load, network)
    origin = point_of(subject.network)
    if vec2load is None:
        direction = unit(random_direction(origin, machine.seed, "none"))
        source = f"gaussian, norm 1, seed {machine.seed}"
    else:
        direction, source = load_direction(vec2load, subject.network, eigenvec_idx)
    recipe = {
        **(subject.checkpoint.recipe or {}),
        "command": "perturb_param",
        "model": subject.model,
        "checkpoint": subject.checkpoint.sha256,
        "direction": source,
        "vec_scale": vec_scale,
    }
    recipe.setdefault("data", {"dataset": subject.dataset})
    path = networks.output_stem(out_folder, model_name, model2load, "_perturbed")
    path = path.with_name(f"{path.name}.ckpt")
    networks.apart(path, model2load)
    moved = add(origin, direction, vec_scale)
    if not all(t.isfinite().all() for t in moved.values()):
        raise InputError(f"--vec_scale {vec_scale:g} moves the weights out of their number range")
    claim_checkpoint(path, recipe, machine.overwrite)
    save_checkpoint(path, state_at(subject.network, moved), recipe)
    print(f"moved by {abs(vec_scale) * norm(direction):.4g} (||theta|| = {norm(origin):.4g})")
    print(f"wrote {path}")


if __name__ == "__main__":
    launch(main)
