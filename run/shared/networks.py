"""From options to objects: device, network, images, problem and their recipe."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import result_path
from ridgeline.models import (
    InputError,
    add_normalization,
    build_model,
    check_model_type,
    code_of,
    is_external,
    published_width,
    unknown,
)
from ridgeline.models.errors import reason_of
from ridgeline.run.shared import options as o
from ridgeline.run.shared.curve_points import network_at, place_of
from ridgeline.train.attacks import Attack
from ridgeline.train.data.datasets import PARTS, check_dataset, load_images, splits_of
from ridgeline.train.data.examples import Images
from ridgeline.train.data.network_check import check_network
from ridgeline.train.data.noise import STREAMS, Purpose, number_of, seeded
from ridgeline.train.exchange import own_device
from ridgeline.train.files.checkpoint import Checkpoint, load_checkpoint
from ridgeline.train.files.recipe import Recipe, difference
from ridgeline.train.options import Options
from ridgeline.train.specs import number, parse_spec

log = logging.getLogger(__name__)

#: the assumptions about a checkpoint without a recipe
FOREIGN = {"width": None, "bias": True}
#: --precision -> dtype of the weights
PRECISIONS = {"float32": torch.float32, "float64": torch.float64, "tf32": torch.float32}


def device_of(gpu: str | None) -> torch.device:
    """The device of --gpu. Raises InputError if it does not exist."""
    if gpu is None:
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if gpu == "cpu":
        return torch.device("cpu")
    if not gpu.isdigit() or int(gpu) >= torch.cuda.device_count():
        known = ["cpu", *map(str, range(torch.cuda.device_count()))]
        raise InputError(f"--gpu {gpu!r} is not a device here; allowed: {', '.join(known)}")
    return torch.device(f"cuda:{gpu}")


def use_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of --precision. Only with tf32 may kernels round more than this dtype.

    Raises InputError for tf32 on a CPU, which would compute in float32 instead.
    """
    if precision == "tf32" and device.type == "cpu":
        raise InputError("--precision tf32 is for CUDA devices; use float32 or float64 here")
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    return PRECISIONS[precision]


def normalization_of(text: str | None) -> dict[str, list[float]] | None:
    """Parse --normalize mean=a:b:c,std=d:e:f."""
    if text is None:
        return None
    spec = parse_spec(text, "--normalize")
    if set(spec) != {"mean", "std"}:
        raise InputError(f"--normalize needs mean=a:b:c,std=d:e:f, got {text!r}")
    return {k: [number(x, f"--normalize {k}") for x in v.split(":")] for k, v in spec.items()}


def fresh_network(model: dict[str, Any], seed: int) -> nn.Module:
    """A newly initialised network from the `model` part of a recipe. Raises InputError."""
    norm = model.get("normalize")
    try:
        with seeded(number_of(seed, Purpose.INITIAL_WEIGHTS)):
            return build_model(
                model["model_type"],
                model["image_shape"],
                width=model["width"],
                bias=model["bias"],
                num_classes=model["num_classes"],
                normalize=(norm["mean"], norm["std"]) if norm else None,
            )
    except (RuntimeError, MemoryError, OverflowError) as error:  # more weights than memory
        raise InputError(f"{model['model_type']} cannot be built: {reason_of(error)}") from None


@dataclass(frozen=True)
class LoadedNetwork:
    """A network loaded from a checkpoint, with the `model` part of its recipe and its data set."""

    network: nn.Module
    model: dict[str, Any]
    dataset: str
    checkpoint: Checkpoint
    data_dir: str | None
    #: the split of the data set on which the network was checked, and its name
    first: Images
    first_subset: str
    #: whether it draws random numbers when it predicts
    randomised: bool = False

    def images(self, subset: str, size: int | None = None) -> Images:
        """The examples of --subset and --subset_size; a size above the set's means the whole set.

        `trained` are the examples that the checkpoint was trained on, from its recipe. Raises
        InputError if the recipe does not record them.
        """
        if subset not in (*PARTS, "trained"):
            raise unknown("--subset", subset, (*PARTS, "trained"))
        images = self.first
        if subset == "trained":
            images = self._trained_images()
        elif subset != self.first_subset:
            images = load_images(self.dataset, subset, self.data_dir)
        images.check_beside(self.first)
        if size is not None and size > len(images):
            log.warning("%s %s has %d examples, fewer than %d: all are taken", self.dataset, subset,
                        len(images), size)  # fmt: skip
        return images.subset(size and min(size, len(images)))

    def _trained_images(self) -> Images:
        recipe = self.checkpoint.recipe or {}
        data, held_out = recipe.get("data", {}), recipe.get("validation")
        count = data.get("examples", 0) + (held_out or {}).get("examples", 0)
        images = load_images(self.dataset, "train", self.data_dir)
        if 0 < count <= len(images):
            images = images.subset(count)
            if held_out:
                images, _ = images.split(held_out.get("examples", 0) / count)
        if images.sha256 != data.get("sha256"):
            raise InputError(
                f"--subset trained: {self.checkpoint.path} does not record which images it was "
                f"trained on, or they are not in {self.dataset}; use train or test"
            )
        return images

    def recipe(
        self, command: str, images: Images, attack: Attack | None, seed: int, *groups: Options,
        **inputs: Any,
    ) -> Recipe:  # fmt: skip
        """The recipe of a diagnostic: its network and images, its options, and further inputs."""
        return {
            "command": command,
            "checkpoint": self.checkpoint.sha256,
            "model": self.model,
            "data": data_recipe(images, self.dataset),
            "attack": None if attack is None else repr(attack),
            "seed": seed,
            "streams": STREAMS,
            **{k: v for group in groups for k, v in group.recipe().items()},
            **inputs,
        }

    def derived(self, command: str, **inputs: Any) -> Recipe:
        """The recipe of a checkpoint made from this one: the old recipe and the change."""
        own = {"data": {"dataset": self.dataset}, **(self.checkpoint.recipe or {})}
        return {**own, "command": command, "model": self.model,
                "checkpoint": self.checkpoint.sha256, **inputs}  # fmt: skip

    @property
    def epoch(self) -> int | None:
        """The epoch that the checkpoint records."""
        trained = self.checkpoint.recipe or {}
        return trained.get("epoch", trained.get("epochs"))

    def problem(
        self, images: Images, attack: Attack | None, machine: o.Machine,
        precision: str | None = None,
    ) -> Problem:  # fmt: skip
        """The problem of a diagnostic, in the dtype of --precision (None: the network's own)."""
        device = own_device(device_of(machine.gpu))
        found = Problem(
            self.network, images, attack, seed=machine.seed, batch_size=machine.batch_size,
            device=device, randomised=self.randomised,
        )  # fmt: skip
        return found if precision is None else found.to(dtype=use_precision(precision, device))


def open_network(
    model2load: str, network: o.Network, default_model: str = "resnet", load: bool = True,
    randomised: bool = False,
) -> LoadedNetwork:  # fmt: skip
    """Load a checkpoint into its network.

    An option replaces the recipe's entry, and the recipe replaces the defaults. Constants of a
    normalisation in the file are used unless --normalize is given. A model type of the form
    package.module:factory is imported only if the user typed it, never from a file. The network is
    checked on two images.

    `default_model` is there only to repeat released code (Liu et al. 2020). `load=False`: the
    weights are not loaded (curve checkpoints).
    """
    name, t = place_of(model2load)
    checkpoint = load_checkpoint(name, network.state_key)
    recipe = checkpoint.recipe or {}
    dataset = network.dataset or recipe.get("data", {}).get("dataset")
    if dataset is None:
        raise InputError(
            f"{model2load} does not say which data it is for; pass --dataset, and --normalize if "
            "its network expects normalised images"
        )
    check_dataset(dataset)
    subset = splits_of(dataset)[0]
    images = load_images(dataset, subset, network.data_dir)
    model = {
        "model_type": default_model, **FOREIGN, "num_classes": images.num_classes,
        **recipe.get("model", {}), "image_shape": list(images.image_shape),
    }  # fmt: skip
    given = {n: getattr(network, n) for n in ("model_type", *FOREIGN)}
    model |= {k: v for k, v in given.items() if v is not None}
    if network.normalize is not None:
        model["normalize"] = normalization_of(network.normalize)
    if is_external(model["model_type"]) and network.model_type is None:
        raise InputError(
            f"{model2load} names the external network {model['model_type']}; "
            f"pass --model_type {model['model_type']} yourself to import that code"
        )
    if model["width"] is None:
        model["width"] = published_width(model["model_type"], images.image_shape)
    check_model_type(model["model_type"], images.image_shape)
    module = fresh_network(model, 0)
    if t is not None:
        seen = load_images(dataset, "train", network.data_dir)
        checkpoint = network_at(checkpoint, module, t, seen)
    elif load:
        fitted = checkpoint.fit(module)
        if fitted.constants and not model.get("normalize"):
            model["normalize"] = fitted.normalization(model2load)
            add_normalization(module, **model["normalize"])
        module.load_state_dict(fitted.state)
    check_network(module, images, randomised=randomised)
    if is_external(model["model_type"]):
        known = recipe.get("model", {}).get("code")
        model["code"] = code_of(module)
        if known not in (None, model["code"]):
            log.warning(
                "the code of %s has changed since %s was written: its weights may mean another "
                "function", model["model_type"], model2load,
            )  # fmt: skip
    return LoadedNetwork(
        module, model, dataset, checkpoint, network.data_dir, images, subset, randomised
    )


def apart(output: Path, *inputs: str | None) -> None:
    """Raise InputError if an output would replace one of the command's own inputs."""
    for given in inputs:
        if given is not None and output.resolve() == Path(given).resolve():
            raise InputError(f"{output} is this command's input; name another output")


def by_epoch(names: Sequence[str], network: o.Network) -> dict[int, LoadedNetwork]:
    """A run's checkpoints by epoch. Raises InputError for missing and repeated epochs."""
    found: dict[int, LoadedNetwork] = {}
    run: dict[str, Any] | None = None
    for name in names:
        subject = open_network(name, network)
        trained = subject.checkpoint.recipe or {}
        epoch = trained.get("epoch", trained.get("epochs"))
        if epoch is None or epoch in found:
            raise InputError(f"--model2load: {name} records no epoch, or one given before")
        own = {k: v for k, v in trained.items() if k not in ("epoch", "part")}
        run = own if run is None else run
        if changed := difference(run, own):
            raise InputError(f"--model2load: {name} is of another run than {names[0]} ({changed})")
        found[epoch] = subject
    return dict(sorted(found.items()))


def data_recipe(images: Images, dataset: str) -> Recipe:
    """The entry of an image set in a recipe."""
    return {"dataset": dataset, "examples": len(images), "sha256": images.sha256}


def output_path(out_file: str | None, model2load: str, what: str) -> Path:
    """The result file: `out_file`, or CHECKPOINT_what.nc beside the checkpoint."""
    if out_file is not None:
        return result_path(out_file)
    path = Path(model2load)
    return path.with_name(f"{path.stem}_{what}.nc")


def output_stem(folder: str | None, name: str | None, model2load: str, what: str) -> Path:
    """FOLDER/NAME without suffix; by default CHECKPOINT + what beside the checkpoint."""
    path = Path(model2load)
    return Path(folder or path.parent) / (name or path.stem + what)
