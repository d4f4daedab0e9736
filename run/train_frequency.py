"""Train with convolutions in the DCT basis and a penalty on their high frequencies (FFR)."""

from __future__ import annotations

from typing import Annotated

from ridgeline.models import InputError
from ridgeline.models.dct import dct_layers, decompose
from ridgeline.run.shared import options as o
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.training import place, start
from ridgeline.train.data.noise import Purpose, number_of
from ridgeline.train.methods import Frequency
from ridgeline.train.methods.frequency import depth_rule

DEFAULTS = o.Training(
    epoch_num=125, batch_size=256, optim="name=adamw,lr=0.01,weight_decay=0.01",
    lr_schedule="name=drops,power=0.1,at=0.24:0.48:0.72:0.96",  # every 30 of 125 epochs
)  # fmt: skip
NETWORK = o.Fresh(dataset="cifar10", model_type="resnet9")


def main(
    *,
    training: o.Training = DEFAULTS,
    fresh: o.Fresh = NETWORK,
    output: o.Output,
    basis_filter: Annotated[str, "WD: synthesise kernels; SD: convolve with the basis"] = "WD",
    init_scale: Annotated[
        str, "same as the plain layer, or kaiming_uniform, kaiming_normal, signal (SD's)"
    ] = "same",
    min_kernel_size: Annotated[int, "smallest kernel that is written in the basis"] = 3,
    l2_reg: Annotated[bool, "penalise; False: the same network without"] = True,
    l2_lambda: Annotated[float, "strength of the penalty"] = 0.01,
    reg_depth: Annotated[float, "penalise the first floor(N/depth)+1 layers; 1: all"] = 3.0,
    reg_all_freq: Annotated[bool, "penalise all frequencies by i^2 + j^2"] = False,
    reg_diff: Annotated[bool, "add hinges that keep the next frequencies below (0,0)"] = False,
    reg_diff_all: Annotated[bool, "hinges between all anti-diagonals, instead of the rest"] = False,
) -> None:
    """Filter-frequency regularisation on clean images; --attack only adds to the evaluation.

    Checkpoints hold plain convolutions, so that every diagnostic compares methods in the same
    coordinates; the metrics hold the penalty and the norm of every frequency of every layer.
    """
    if l2_lambda < 0:
        raise InputError(f"--l2_lambda must not be negative, got {l2_lambda:g}")
    if reg_diff_all and (reg_all_freq or reg_diff):
        raise InputError("--reg_diff_all replaces --reg_all_freq and --reg_diff: name one")
    trainer, model, plain = start(fresh, training, output)
    if min_kernel_size < 2:
        raise InputError(f"--min_kernel_size must be at least 2, got {min_kernel_size}")
    network = decompose(
        plain, basis_filter, init_scale, min_kernel_size, number_of(training.seed, Purpose.DCT)
    )
    layers = depth_rule(len(dct_layers(network)), reg_depth)
    kind = "decay" if reg_diff_all else "all" if reg_all_freq else "highest"
    strength = l2_lambda if l2_reg else 0.0
    method = Frequency(network, strength=strength, penalty=kind, lowest=reg_diff, layers=layers,
                       attack=trainer.attack, device=trainer.device)  # fmt: skip
    recipe = {
        "command": "train_frequency", "method": "frequency", "model": model,
        "basis": [basis_filter, init_scale, min_kernel_size],
        "penalty": [kind, strength, reg_diff, list(method.penalised)],
    }  # fmt: skip
    where = place(model, output, trainer.images, "frequency")
    trainer.run(method, *where, recipe, keep_epochs=output.epoch_ckpts)


if __name__ == "__main__":
    launch(main)
