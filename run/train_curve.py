"""Train a Bezier curve or polygonal chain that connects two minima."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ridgeline.landscape.surfaces.curve import CurveTraining, check_fixed
from ridgeline.landscape.weights.paths import CURVES, straight
from ridgeline.landscape.weights.point import point_of, select
from ridgeline.models import InputError, unknown
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.training import Run, trainer_of
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.loop import check_batches

Fix = Annotated[tuple[int, ...], "one number per control point, 1 = fixed, e.g. 1,0,0,0,1"]
Ends = Annotated[tuple[str, ...], "checkpoints aligned with --fix_points, e.g. A.ckpt,,,,B.ckpt"]
DEFAULTS = o.Training(epoch_num=20, optim="name=sgd,lr=0.1,momentum=0.9,weight_decay=1e-6")


def main(
    *,
    fix_points: Fix,
    model2load: Ends,
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
    """Train the free control points; writes the curve as one checkpoint and metrics (.jsonl).

    Learning-rate schedules see the fractional epoch.
    """
    if curve_type not in CURVES:
        raise unknown("--curve_type", curve_type, CURVES)
    check_fixed(fix_points)
    count = len(fix_points)
    if count != len(model2load) or count < 3:
        raise InputError(
            f"--fix_points ({count}) and --model2load ({len(model2load)}) need one entry per "
            "control point and at least 3, e.g. 1,0,1 and A.ckpt,,B.ckpt"
        )
    if not (model2load[0] and model2load[-1]):
        raise InputError("--model2load: the first and the last control point need a checkpoint")
    if training.val_fraction:
        raise InputError("--val_fraction is for networks: a curve is judged in its middle alone")
    network = o.Network(dataset, training.data_dir, model_type, width, bias, normalize)
    subject = networks.open_network(model2load[0], network)
    origin = point_of(subject.network)
    loaded = {k: load_checkpoint(p) for k, p in enumerate(model2load) if p}
    points = {k: select(c.fit(subject.network).state, origin, str(c.path))
              for k, c in loaded.items()}  # fmt: skip
    line = straight(points[0], points[count - 1], count)
    trainer = trainer_of(training, subject.dataset)
    check_batches(subject.network, trainer.images, training.batch_size)
    method = CurveTraining(
        subject.network,
        [points.get(k, knot) for k, knot in enumerate(line)],
        fix_points,
        curve_type,
        trainer.setup.attack,
        trainer.setup.device,
    )
    extra = {
        "model": subject.model,
        "curve_type": curve_type,
        "fix_points": fix_points,
        "ends": {k: c.sha256 for k, c in loaded.items()},
    }
    folder = Path(out_folder or Path(model2load[0]).parent)
    Run(trainer, method, folder, model_name, extra).train()


if __name__ == "__main__":
    launch(main)
