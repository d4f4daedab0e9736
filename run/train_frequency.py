"""Train with convolutions in the DCT basis and a penalty on their high frequencies (FFR)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import build
import options as o
from launch import launch

from models import InputError, check_model_type
from models.dct import decompose
from train.methods import Frequency
from train.methods.frequency import depth_rule

DEFAULTS = o.Training(
    epoch_num=125, batch_size=256, optim="name=adamw,lr=0.01,weight_decay=0.01",
    lr_schedule="name=jump,start_v=0.01,power=0.1,min_jump_pt=30,jump_freq=30",
)  # fmt: skip


def main(
    *,
    training: o.Training = DEFAULTS,
    dataset: Annotated[str, "mnist5k, mnist, cifar10, cifar100, svhn or FILE.npz"] = "cifar10",
    model_type: Annotated[
        str, "resnet9, resnet20, efficientnet_b0, another one, or package.module:factory"
    ] = "resnet9",
    width: Annotated[int, "width factor w"] = 16,
    bias: Annotated[bool, "biases of LeNet and VGG"] = True,
    normalize: Annotated[str | None, "normalise inputs in the network, mean=..,std=.."] = None,
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
    epoch_ckpts: Annotated[tuple[int, ...], "epochs (from 1) after which to keep a network"] = (),
    out_folder: Annotated[str | None, "folder of the run; None: runs/MODEL_NAME"] = None,
    model_name: Annotated[str | None, "stem of the output files; None: made of the rest"] = None,
) -> None:
    """Filter-frequency regularisation on clean images; --attack only adds to the evaluation.

    Checkpoints hold plain convolutions, so that every diagnostic compares methods in the same
    coordinates; the metrics hold the penalty and the norm of every frequency of every layer.
    """
    if any(not 1 <= epoch <= training.epoch_num for epoch in epoch_ckpts):
        raise InputError(f"--epoch_ckpts must lie in 1..{training.epoch_num} (--epoch_num)")
    if l2_lambda < 0:
        raise InputError(f"--l2_lambda must not be negative, got {l2_lambda:g}")
    if reg_diff_all and (reg_all_freq or reg_diff):
        raise InputError("--reg_diff_all replaces --reg_all_freq and --reg_diff: name one")
    trainer = build.trainer_of(training, dataset)
    check_model_type(model_type, trainer.images.image_shape)
    model = {
        "model_type": model_type, "width": width, "bias": bias,
        "num_classes": trainer.images.num_classes, "image_shape": trainer.images.image_shape,
        "normalize": build.normalization_of(normalize),
    }  # fmt: skip
    plain = build.fresh_network(model, training.seed)
    network = decompose(plain, basis_filter, init_scale, min_kernel_size, training.seed)
    method = Frequency(network, attack=trainer.attack, device=trainer.device)
    layers = depth_rule(len(method.all), reg_depth)
    kind = "decay" if reg_diff_all else "all" if reg_all_freq else "highest"
    strength = l2_lambda if l2_reg else 0.0
    method = Frequency(network, strength=strength, penalty=kind, lowest=reg_diff, layers=layers,
                       attack=trainer.attack, device=trainer.device)  # fmt: skip
    name = model_name or f"{trainer.images.name}_{model_type.replace(':', '.')}_w{width}_frequency"
    recipe = {
        "command": "train_frequency", "method": "frequency", "model": model,
        "basis": [basis_filter, init_scale, min_kernel_size],
        "penalty": [kind, strength, reg_diff, list(method.penalised)],
    }  # fmt: skip
    trainer.run(method, Path(out_folder or f"runs/{name}"), name, recipe, keep_epochs=epoch_ckpts)


if __name__ == "__main__":
    launch(main)
