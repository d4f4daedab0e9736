"""Options that several commands share, each written once: type, help line and default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ridgeline.train.data.noise import check_seed
from ridgeline.train.options import Opt, Options

if TYPE_CHECKING:
    from ridgeline.run.shared.networks import LoadedNetwork
    from ridgeline.train.data.examples import Images

DataDir = Annotated[str | None, "folder of the torchvision sets; None: the user's cache folder"]
SubsetSize = Annotated[
    int | None, Opt("use a fixed random subset of this many examples; None: all", low=1)
]
Subset = Annotated[str, "train, test, or trained: the images the checkpoint was trained on"]
Model2Load = Annotated[str, "checkpoint: ours, or a state dict of others"]
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
    Opt("replace existing output; what this recipe left half done is continued", decides=False),
]
OutFile = Annotated[str | None, "result file (.nc); None: beside the checkpoint"]
OutFolder = Annotated[str | None, "folder of the output; None: the checkpoint's"]
OutName = Annotated[str | None, "stem of the output; None: made from the checkpoint's"]
Budgets = Annotated[
    str | None, "budgets 0,0.1,0.3, or a schedule with pt_num: f(0)..f(pt_num-1); None: threshold"
]
BatchNorm = Annotated[
    str, "BatchNorm statistics: keep the stored ones, or recalibrate at every place"
]
Direction = Annotated[
    str | None, "direction file, Hessian result .nc, between:FILE or gradient; None: random"
]


@dataclass(frozen=True)
class Network(Options):
    """What a checkpoint is a checkpoint of; None everywhere takes what the checkpoint records."""

    dataset: Annotated[
        str | None, "mnist5k, mnist, cifar10, cifar100, svhn or FILE.npz; None: the recorded one"
    ] = None
    data_dir: DataDir = None
    model_type: Annotated[
        str | None,
        "lenet, ..., torchvision:NAME, package.module:factory or file.py:factory; None: recorded",
    ] = None
    width: Annotated[int | None, Opt("width factor w; None: the recorded one", low=1)] = None
    bias: Annotated[bool | None, "biases of LeNet and VGG; None: as recorded"] = None
    normalize: Annotated[
        str | None,
        "normalise inputs inside the network, mean=a:b:c,std=d:e:f; None: as recorded",
    ] = None
    state_key: Annotated[
        str | None,
        "entry of a file that holds several, e.g. ema_state_dict; None: state_dict",
    ] = None


@dataclass(frozen=True)
class Examples(Options):
    """The images that a network is looked at on."""

    subset: Annotated[
        str,
        Opt("images", choices={"train": "", "test": "",
                               "trained": "those the checkpoint was trained on"}),
    ] = "train"  # fmt: skip
    subset_size: SubsetSize = None

    def of(self, subject: LoadedNetwork) -> Images:
        """These images of the network's data set; InputError if it cannot tell what it saw."""
        return subject.images(self.subset, self.subset_size)


@dataclass(frozen=True)
class Machine(Options):
    """How a diagnostic runs; only the seed decides what comes out."""

    batch_size: Annotated[
        int, Opt("examples in memory at a time; never changes a result", low=1, decides=False)
    ] = 100
    seed: Seed = 0
    gpu: Gpu = None
    overwrite: Overwrite = False

    def check(self) -> None:
        """Raise InputError for a seed that is none."""
        check_seed(self.seed)


@dataclass(frozen=True)
class Training:
    """What all training commands share."""

    data_dir: DataDir = None
    subset_size: SubsetSize = None
    batch_size: Annotated[int, "examples per training step"] = 128
    epoch_num: Annotated[int, "epochs to train; 0 writes the initial network"] = 200
    optim: Annotated[str, "name=sgd|adam|adamw|adagrad|adadelta|rmsprop,lr=...,..."] = (
        "name=sgd,lr=0.1,momentum=0.9,weight_decay=1e-4"
    )
    lr_schedule: Annotated[
        str | None,
        "e.g. name=drops,at=0.5:0.75,power=0.1: begins at the lr of --optim unless it has start_v, "
        "drops at shares of the run; None: constant",
    ] = None
    attack: Attack = None
    augment: Annotated[
        bool | None, "random crop and flip; None: for cifar10 and cifar100, never for an .npz"
    ] = None
    eval_size: Annotated[int | None, "test examples scored after every epoch; None: all"] = None
    val_fraction: Annotated[
        float, "share of the training images held out to choose NAME_best.ckpt; 0: none"
    ] = 0.0
    seed: Seed = 0
    gpu: Gpu = None
    overwrite: Overwrite = False


PGD10 = "name=pgd,threshold=8/255,step_size=2/255,iter_num=10,order=-1"
PGD20 = "name=pgd,threshold=8/255,step_size=2/255,iter_num=20,order=-1"
#: how CURE and FOMO train on CIFAR-10: 200 epochs, rate divided by 10 after 100 and 150
LONG_RUN = Training(
    optim="name=sgd,lr=0.1,momentum=0.9,weight_decay=5e-4",
    lr_schedule="name=drops,power=0.1,at=0.5:0.75",
    attack="name=pgd,threshold=8/255,step_size=2/255,iter_num=10,order=-1",
    val_fraction=0.1,
)


@dataclass(frozen=True)
class Robust:
    """What adversarial training minimises, and the attack that judges it."""

    objective: Annotated[str, "at: loss at --attack's images; trades: CE + beta KL"] = "at"
    trades_beta: Annotated[float, "weight of the divergence of trades"] = 6.0
    awp_gamma: Annotated[float, "radius of adversarial weight perturbation; 0: none"] = 0.0
    judge: Annotated[str | None, "attack of the evaluation; None: --attack"] = None


@dataclass(frozen=True)
class Fresh:
    """A network to be initialised, and what it is trained on."""

    dataset: Annotated[str, "mnist5k, mnist, cifar10, cifar100, svhn or FILE.npz"] = "mnist5k"
    model_type: Annotated[
        str,
        "lenet, vgg, resnet, preact, resnet9, resnet20, efficientnet_b0, torchvision:NAME, "
        "package.module:factory or file.py:factory",
    ] = "lenet"
    width: Annotated[int | None, "width factor w; None: the network's published one"] = None
    bias: Annotated[bool, "biases of LeNet and VGG"] = True
    normalize: Annotated[str | None, "normalise inputs in the network, mean=..,std=.."] = None


@dataclass(frozen=True)
class Output:
    """Where a training run is written, and what besides its last network."""

    epoch_ckpts: Annotated[
        tuple[int, ...], "epochs (from 1) after which to keep a checkpoint, e.g. 50,75"
    ] = ()
    out_folder: Annotated[str | None, "folder of the run; None: runs/MODEL_NAME"] = None
    model_name: Annotated[
        str | None, "stem of the output files; None: made of data set, model and method"
    ] = None
