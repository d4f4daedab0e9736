"""Train a Bezier curve or polygonal chain that connects two minima."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ridgeline.landscape.surfaces.curve import CurveTraining
from ridgeline.landscape.surfaces.curve_options import ControlOptions
from ridgeline.landscape.weights.paths import CURVES
from ridgeline.models import InputError, unknown
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.training import Run, trainer_of
from ridgeline.train.batches import check_batches

DEFAULTS = o.Training(epoch_num=20, optim="name=sgd,lr=0.1,momentum=0.9,weight_decay=1e-6")

SHARED = True  #: torchrun's processes share every batch


def main(
    *,
    control: ControlOptions,
    training: o.Training = DEFAULTS,
    curve_type: Annotated[str, "bezier, bezier_curve or poly_chain"] = "bezier",
    dataset: Annotated[str | None, "data set; None: the first checkpoint's own"] = None,
    model_type: Annotated[str | None, "network; None: the first checkpoint's own"] = None,
    width: Annotated[int | None, "width factor w; None: the recorded one"] = None,
    bias: Annotated[bool | None, "biases of LeNet and VGG; None: as recorded"] = None,
    normalize: Annotated[str | None, "mean=a:b:c,std=d:e:f; None: as recorded"] = None,
    out_folder: o.OutFolder = None,
    model_name: Annotated[str, "stem of the output files"] = "curve",
) -> None:
    """Train the free control points. Writes the curve as one checkpoint, and metrics (.jsonl).

    Learning-rate schedules use the fractional epoch.
    """
    if curve_type not in CURVES:
        raise unknown("--curve_type", curve_type, CURVES)
    if training.val_fraction or training.val_set:
        raise InputError(
            "--val_fraction and --val_set are for networks: a curve is evaluated only at its middle"
        )
    network = o.Network(dataset, training.data_dir, model_type, width, bias, normalize)
    first, fixed = control.model2load[0], control.fix_points
    subject = networks.open_network(first, network)
    knots, ends = control.knots(subject.network)
    trainer = trainer_of(training, subject.dataset)
    check_batches(subject.network, trainer.images, training.batch_size)
    setup = trainer.setup
    method = CurveTraining(subject.network, knots, fixed, curve_type, setup.attack, setup.device)
    extra = {"model": subject.model, "curve_type": curve_type, "fix_points": fixed, "ends": ends}
    Run(trainer, method, Path(out_folder or Path(first).parent), model_name, extra).train()


if __name__ == "__main__":
    launch(main)
