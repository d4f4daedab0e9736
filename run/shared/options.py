"""Options that several commands share, each written once: type, help line and default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ridgeline.models.errors import InputError
from ridgeline.train.acceleration import (
    Accumulate,
    ChannelsLast,
    Compile,
    Deterministic,
    Precision,
    SyncBatchnorm,
)
from ridgeline.train.data.noise import check_seed
from ridgeline.train.files.tensorboard import check_tensorboard
from ridgeline.train.options import Opt, Options

if TYPE_CHECKING:
    from ridgeline.run.shared.networks import LoadedNetwork
    from ridgeline.train.data.examples import Images

DataDir = Annotated[
    str | None, "folder of torchvision's sets or ImageNet; None: the user's cache folder"
]
SubsetSize = Annotated[
    int | None, Opt("use a fixed random subset of this many examples; None: all", low=1)
]
Subset = Annotated[str, "train, test, or trained: the images the checkpoint was trained on"]
Model2Load = Annotated[str, "checkpoint: ours, a foreign state dict, or CURVE.ckpt@t"]
Epochs = Annotated[tuple[str, ...], "a run's checkpoints by epoch, NAME_1.ckpt,NAME_5.ckpt,..."]
Attack = Annotated[
    str | None, "e.g. name=pgd,step_size=0.01,threshold=0.1,iter_num=20,order=-1; None: clean"
]
Seed = Annotated[int, "seed of everything random"]
Gpu = Annotated[
    str | None,
    Opt("cpu, or the number of a CUDA device; None: the first one, else cpu", decides=False),
]
Overwrite = Annotated[
    bool,
    Opt("replace existing output; unfinished work of this recipe continues", decides=False),
]
OutFile = Annotated[str | None, "result file (.nc); None: beside the checkpoint"]
OutFolder = Annotated[str | None, "folder of the output; None: the checkpoint's"]
OutName = Annotated[str | None, "stem of the output; None: from the checkpoint's"]
Budgets = Annotated[
    str | None, "budgets 0,0.1,0.3, or a schedule with pt_num: f(0)..f(pt_num-1); None: threshold"
]
BatchNorm = Annotated[
    str, "BatchNorm statistics: keep the stored ones, or recalibrate at every point"
]
Direction = Annotated[
    str | None, "direction file, Hessian result .nc, between:FILE or gradient; None: random"
]


@dataclass(frozen=True)
class Network(Options):
    """The network and data of a checkpoint. None means: as the checkpoint records."""

    dataset: Annotated[
        str | None,
        "mnist5k, mnist, cifar10, cifar100, svhn, ..., FILE.npz, FILE.npy[@SEVERITY] or "
        "FOLDER[@SIDE]; None: the recorded one",
    ] = None
    data_dir: DataDir = None
    model_type: Annotated[
        str | None,
        "lenet, ..., torchvision:NAME, timm:NAME, package.module:factory or file.py:factory; None: "
        "recorded",
    ] = None
    width: Annotated[int | None, Opt("width factor w; None: the recorded one", low=1)] = None
    bias: Annotated[bool | None, "biases of LeNet and VGG; None: as recorded"] = None
    normalize: Annotated[
        str | None,
        "normalise inputs inside the network, mean=a:b:c,std=d:e:f; None: as recorded",
    ] = None
    state_key: Annotated[
        str | None,
        "entry of a file with several state dicts, e.g. ema_state_dict; None: state_dict",
    ] = None


@dataclass(frozen=True)
class Examples(Options):
    """The images of a diagnostic."""

    subset: Annotated[
        str,
        Opt("images", choices={"train": "", "test": "", "val": "where the set has its own",
                               "trained": "those the checkpoint was trained on"}),
    ] = "train"  # fmt: skip
    subset_size: SubsetSize = None

    def of(self, subject: LoadedNetwork) -> Images:
        """These images of the network's data set. Raises InputError if it is not known."""
        return subject.images(self.subset, self.subset_size)


TEST_200, TEST_1000 = Examples("test", 200), Examples("test", 1000)
TRAINED_500 = Examples("trained", 500)
TRAIN_500 = Examples("train", 500)


@dataclass(frozen=True)
class Machine(Options):
    """How a diagnostic runs. Of these options only the seed changes the result."""

    batch_size: Annotated[
        int, Opt("examples in memory at a time; does not change results", low=1, decides=False)
    ] = 100
    seed: Seed = 0
    gpu: Gpu = None
    overwrite: Overwrite = False

    def check(self) -> None:
        """Raise InputError for a wrong seed."""
        check_seed(self.seed)


@dataclass(frozen=True)
class Training(Options):
    """The common options of all training commands."""

    data_dir: DataDir = None
    subset_size: Annotated[
        int | None, Opt("use a fixed random subset of this many examples; None: all", low=1)
    ] = None
    batch_size: Annotated[int, Opt("examples per training step", low=1)] = 128
    epoch_num: Annotated[int, Opt("epochs to train; 0 writes the initial network", low=0)] = 200
    optim: Annotated[str, Opt("name=sgd|adam|adamw|adagrad|adadelta|rmsprop,lr=...,...")] = (
        "name=sgd,lr=0.1,momentum=0.9,weight_decay=1e-4"
    )
    lr_schedule: Annotated[
        str | None,
        Opt("e.g. name=drops,at=0.5:0.75,power=0.1: begins at the lr of --optim unless it has "
            "start_v, drops at shares of the run; None: constant"),
    ] = None  # fmt: skip
    attack: Attack = None
    augment: Annotated[
        str | None,
        Opt("True (crop=4,flip=1), False, or crop=4,border=reflect,flip=1,rotate=15,cutout=8; "
            "None: crop and flip for photographs (cifar10, ...), by the set's name and size"),
    ] = None  # fmt: skip
    eval_size: Annotated[
        int | None, Opt("test examples evaluated after every epoch; None: all", low=1)
    ] = None
    eval_freq: Annotated[
        int, Opt("epochs between evaluations; the last epoch is always evaluated", low=1)
    ] = 1
    gradient_size: Annotated[
        int,
        Opt("training images for the gradient of the weights at every evaluation, clean and under "
            "the evaluation's attack; 0: none", low=0),
    ] = 0  # fmt: skip
    certify_size: Annotated[
        int,
        Opt("training images on which every evaluation compares the attack of training with "
            "stronger ones; 0: none", low=0),
    ] = 0  # fmt: skip
    val_fraction: Annotated[
        float, Opt("share of the training images held out to choose NAME_best.ckpt; 0: none")
    ] = 0.0
    val_set: Annotated[
        bool, Opt("choose NAME_best.ckpt by the data set's own val images instead")
    ] = False
    seed: Seed = 0
    gpu: Annotated[
        str | None,
        Opt("cpu, or the number of a CUDA device; None: the first one, else cpu", decides=False),
    ] = None
    precision: Precision = "float32"
    compile: Compile = False
    channels_last: ChannelsLast = False
    accumulate: Accumulate = 1
    deterministic: Deterministic = False
    sync_batchnorm: SyncBatchnorm = False
    save_minutes: Annotated[
        float, Opt("minutes between two states to resume from", above=0, decides=False)
    ] = 1.0
    workers: Annotated[
        int | None,
        Opt("processes that decode images of a folder that does not fit in memory; 0: this one; "
            "None: one per core", low=0, decides=False),
    ] = None  # fmt: skip
    tensorboard: Annotated[
        bool,
        Opt("write the metrics for TensorBoard too, in NAME.tensorboard (pip install "
            "'ridgeline[tensorboard]')", decides=False),
    ] = False  # fmt: skip
    overwrite: Annotated[
        bool,
        Opt("replace existing output; unfinished work of this recipe continues", decides=False),
    ] = False

    def check(self) -> None:
        """Raise InputError for a wrong seed, two validation sets, and a missing TensorBoard."""
        check_seed(self.seed)
        if self.tensorboard:
            check_tensorboard()
        if self.val_set and self.val_fraction:
            raise InputError("--val_set and --val_fraction exclude each other: leave one out")

    def check_clean(self, command: str) -> None:
        """Raise InputError for options that need an attack or a validation set."""
        if self.attack is not None or self.val_fraction or self.val_set:
            raise InputError(f"{command} is for clean data: leave --attack, --val_fraction and "
                             "--val_set out")  # fmt: skip
        if self.epoch_num < 1:
            raise InputError(f"--epoch_num must be at least 1, got {self.epoch_num}")


EvalAttack = Annotated[str | None, Opt("attack of the evaluation; None: --attack")]
PGD10 = "name=pgd,eps=8/255,step_size=2/255,iterations=10,order=-1"
PGD20 = "name=pgd,eps=8/255,step_size=2/255,iterations=20,order=-1"
#: how CURE and FOMO train on CIFAR-10: 200 epochs, rate divided by 10 after 100 and 150
LONG_RUN = Training(
    optim="name=sgd,lr=0.1,momentum=0.9,weight_decay=5e-4",
    lr_schedule="name=drops,power=0.1,at=0.5:0.75",
    attack="name=pgd,eps=8/255,step_size=2/255,iterations=10,order=-1",
    val_fraction=0.1,
)

#: training of LURE on every chunk
CHUNK_RUN = Training(
    epoch_num=50, batch_size=64, optim="name=sgd,lr=0.1,momentum=0.9,weight_decay=1e-4",
    lr_schedule="name=drops,power=0.1,at=0.4:0.8",
)  # fmt: skip


@dataclass(frozen=True)
class Fresh(Options):
    """A network to initialise, and its training data."""

    dataset: Annotated[
        str,
        Opt("mnist5k, mnist, fashionmnist, kmnist, cifar10, cifar100, svhn, tinyimagenet, "
            "restricted_imagenet, flowers102, dtd, oxfordiiitpet, sun397, grocerystore, FILE.npz "
            "or a FOLDER[@SIDE] of train/CLASS/ and test/CLASS/"),
    ] = "mnist5k"  # fmt: skip
    model_type: Annotated[
        str,
        Opt("lenet, vgg, resnet, preact, resnet9, resnet20, efficientnet_b0, wrn28, wrn34, ..., "
            "resnet18, ..., resnet152, vit4, vit8, vit16, torchvision:NAME, timm:NAME, "
            "package.module:factory or file.py:factory"),
    ] = "lenet"  # fmt: skip
    width: Annotated[int | None, Opt("width factor w; None: the network's published one")] = None
    bias: Annotated[bool, Opt("biases of LeNet and VGG")] = True
    normalize: Annotated[
        str | None, Opt("normalise inputs in the network, mean=..,std=..")
    ] = None  # fmt: skip


@dataclass(frozen=True)
class Output(Options):
    """Where a training run is written, and which networks besides the last."""

    epoch_ckpts: Annotated[
        tuple[int, ...],
        Opt("epochs (from 1) after which a checkpoint is saved, e.g. 50,75", low=1, decides=False),
    ] = ()
    out_folder: Annotated[
        str | None, Opt("folder of the run; None: runs/MODEL_NAME", decides=False)
    ] = None
    model_name: Annotated[
        str | None,
        Opt("stem of the output files; None: from data set, model and method", decides=False),
    ] = None

    def check(self) -> None:
        """Raise InputError for empty names."""
        if self.model_name == "" or self.out_folder == "":
            raise InputError("--model_name and --out_folder must not be empty")
