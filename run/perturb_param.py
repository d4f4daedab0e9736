"""Write a checkpoint moved along a direction: theta + s v."""

from __future__ import annotations

from ridgeline.landscape.weights.point import norm, point_of, state_at
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.command import written
from ridgeline.run.shared.directions import StepOptions
from ridgeline.run.shared.launch import launch


def main(
    *,
    model2load: o.Model2Load,
    network: o.Network,
    machine: o.Machine,
    step: StepOptions,
    out_folder: o.OutFolder = None,
    model_name: o.OutName = None,
) -> None:
    """Move the parameters. A Gaussian direction has Euclidean norm 1. Buffers do not change."""
    networks.device_of(machine.gpu)  # only checked: the addition needs no GPU
    subject = networks.open_network(model2load, network)
    origin = point_of(subject.network)
    direction, source = step.direction(subject.network, machine.seed)
    recipe = subject.derived("perturb_param", direction=source, vec_scale=step.vec_scale)
    path = networks.output_stem(out_folder, model_name, model2load, "_perturbed")
    path = path.with_name(f"{path.name}.ckpt")
    networks.apart(path, model2load)
    moved = state_at(subject.network, step.taken(origin, direction))
    with written([(path, moved, recipe)], machine.overwrite):
        length = abs(step.vec_scale) * norm(direction)
        print(f"moved by {length:.4g} (||theta|| = {norm(origin):.4g})")
    print(f"wrote {path}")


if __name__ == "__main__":
    launch(main)
