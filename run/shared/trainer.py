"""The checked options of a training command, and its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

from ridgeline.models import InputError
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.budgets import attack_of
from ridgeline.train.acceleration import Acceleration
from ridgeline.train.attacks import parse_attack
from ridgeline.train.data.augmentation import Augmentation, augmentation_of
from ridgeline.train.data.datasets import load_images
from ridgeline.train.data.examples import Images
from ridgeline.train.exchange import own_device
from ridgeline.train.methods import Setup
from ridgeline.train.optimizers import parse_optimizer
from ridgeline.train.schedules import parse_rate


@dataclass(frozen=True)
class Trainer:
    """The checked options of a training command, and the settings of its methods."""

    training: o.Training
    dataset: str
    setup: Setup
    test_images: Images
    validation: Images | None = None

    @property
    def acceleration(self) -> Acceleration:
        """The options of the computation of steps."""
        return Acceleration(
            **{f.name: getattr(self.training, f.name) for f in fields(Acceleration)}
        )

    @property
    def images(self) -> Images:
        """The training images."""
        return self.setup.images

    def on(self, images: Images, validation: Images | None) -> Trainer:
        """The same for other images."""
        return replace(self, setup=replace(self.setup, images=images), validation=validation)

    def clean(self, epochs: int) -> Trainer:
        """The same for a run of another length, without attack and validation."""
        rate = parse_rate(self.training.lr_schedule, self.setup.optimizer.lr, epochs)
        plain = {"attack": None, "eval_attack": None, "epochs": epochs, "rate": rate}
        training = replace(self.training, certify_size=0)
        setup = replace(self.setup, **plain)
        return replace(self, training=training, setup=setup, validation=None)


def trainer_of(
    training: o.Training, dataset: str, eval_attack: str | None = None,
    augmentations: Mapping[str, Augmentation | None] = MappingProxyType({}),
) -> Trainer:  # fmt: skip
    """Parse the options of a training command and load its images. Raises InputError.

    `augmentations`: the method's own for certain data sets (`Method.augmentations`).
    """
    optimizer, attack = parse_optimizer(training.optim), attack_of(training.attack)
    judging = None
    if eval_attack is not None:
        beside = Setup(attack=attack).needed_attack().unit
        judging = parse_attack(eval_attack, "--eval_attack", beside=beside)
    if judging is None and attack is not None and attack.reach > attack.eps:
        raise InputError(f"--attack: {attack} leaves the ball of its eps and can train only; name "
                         "the attack that judges, --eval_attack name=pgd,...")  # fmt: skip
    rate = parse_rate(training.lr_schedule, optimizer.lr, training.epoch_num)
    device = own_device(networks.device_of(training.gpu))
    where = (training.data_dir, training.workers)
    test = load_images(dataset, "test", *where).subset(training.eval_size)
    images = load_images(dataset, "train", *where)
    images = images.subset(training.subset_size)
    images.check_beside(test)
    augment = augmentation_of(training.augment, images, augmentations)
    validation = None
    if training.val_fraction:
        images, validation = images.split(training.val_fraction)
    if training.val_set:
        validation = load_images(dataset, "val", *where)
        images.check_beside(validation)
    setup = Setup(
        images=images, attack=attack, eval_attack=judging, optimizer=optimizer,
        epochs=training.epoch_num, rate=rate, augment=augment, seed=training.seed, device=device,
    )  # fmt: skip
    trainer = Trainer(training, dataset, setup, test, validation)
    trainer.acceleration.check_device(device)
    return trainer
