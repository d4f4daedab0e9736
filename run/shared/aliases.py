"""Option names of the seeds, so that the README commands of APART, FFR and LURE run here.

There is one table per command. An alias is another name of an option, one part of a spec
(`--learning_rate` is the lr of `--optim`), or a switch for one value. Some settings have no
equivalent here: the command says so and continues.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ridgeline.models.errors import InputError, unknown
from ridgeline.train.specs import number, parse_spec, whole

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alias:
    """Another name of `option` (None: there is no such option here).

    - `part`: the part of the option's spec that it sets.
    - `value`: the value of a switch; a switch has no value on the command line.
    - `words`: values that have other names here.
    - `why`: why there is no such option, or the text for --help.
    """

    option: str | None = None
    part: str | None = None
    value: str | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    why: str = ""
    switch: bool = False

    @property
    def note(self) -> str:
        """Its text in --help."""
        if self.option is None:
            return f"accepted, no effect: {self.why}"
        if self.why:
            return self.why
        if self.value is not None:
            return f"--{self.option} {self.value}"
        return f"{self.part} of --{self.option}" if self.part else f"--{self.option}"


def _nothing(why: str, *, switch: bool = False) -> Alias:
    return Alias(why=why, switch=switch)


def _optim(*names: str, **words: str) -> dict[str, Alias]:
    """The parts of --optim under their usual names."""
    parts = {"lr": "lr", "learning_rate": "lr", "max_lr": "lr", "wd": "weight_decay",
             "optimizer": "name"}  # fmt: skip
    return {n: Alias("optim", part=parts.get(n, n), words=words if n == "optimizer" else {})
            for n in names}  # fmt: skip


_METRICS = "every run writes its metrics beside its checkpoints (NAME.jsonl)"
_WORDS_OF_ARCH = {
    "resnet20s": "resnet20", "vgg16_bn": "vgg",
    "wide_resnet50_2": "torchvision:wide_resnet50_2",
    "wide_resnet101_2": "torchvision:wide_resnet101_2",
}  # fmt: skip
_WORDS_OF_MODEL = {
    "lowres_resnet9": "resnet9", "openlth_resnet_20": "resnet20",
    "openlth_resnet_20_16": "resnet20", "efficientnet-b0": "efficientnet_b0",
}  # fmt: skip
_DEVICES = {"cuda": "0", **{f"cuda:{n}": str(n) for n in range(16)}}

#: command -> the seed whose names these are, and its aliases
ALIASES: dict[str, tuple[str, dict[str, Alias]]] = {
    "train_apart": ("APART", {
        "gpuid": Alias("gpu"),
        "epochs": Alias("epoch_num"),
        "epsilon": Alias("eps"),
        "save_dir": Alias("out_folder"),
        "no_cuda": Alias("gpu", value="cpu", switch=True),
        **_optim("max_lr", "momentum", "weight_decay", "wd"),
        "test_batch_size": _nothing("the evaluation chooses its own batches"),
        "log_interval": _nothing(_METRICS),
        "save_freq": _nothing("--epoch_ckpts names the epochs that are kept"),
    }),
    "train_frequency": ("FFR", {
        "output_dir": Alias("out_folder"),
        "model": Alias("model_type", words=_WORDS_OF_MODEL),
        "max_epochs": Alias("epoch_num"),
        **_optim("optimizer", "learning_rate", "weight_decay", "momentum"),
        "scheduler": Alias("lr_schedule", part="scheduler"),
        "device": Alias("gpu", words=_DEVICES),
        "num_workers": Alias("workers"),
        "verbose": _nothing(_METRICS),
        "wandb_project": _nothing(_METRICS),
        "tensorboard_project": _nothing(_METRICS),
    }),
    "train_lure": ("LURE (the README of FOMO)", {
        "data": Alias("data_dir", part="data", why="--data_dir of small images"),
        "imagenet_path": Alias("data_dir", part="imagenet_path", why="--data_dir of ImageNet"),
        "save_dir": Alias("out_folder"),
        "run": Alias("model_name"),
        "arch": Alias("model_type", part="arch", words=_WORDS_OF_ARCH, why="--model_type"),
        "imagenet_arch": Alias("model_type", part="imagenet", value="_imagenet", switch=True,
                               why="the stem for large images, --model_type ..._imagenet"),
        "epochs": Alias("epoch_num"),
        **_optim("lr", "momentum", "weight_decay"),
        "decreasing_lr": Alias("lr_schedule", part="decreasing_lr"),
        "gamma": Alias("lr_schedule", part="gamma"),
        "no_replay": Alias("replay", value="none", switch=True),
        "one_replay": Alias("replay", value="one", switch=True),
        "buffer_replay": Alias("replay", value="buffer", switch=True),
        "few_shot": Alias("shots", part="few_shot", value="on", switch=True, why="--shots 100"),
        "n_shots": Alias("shots", part="n_shots", why="--shots, with -few_shot"),
        "snip_no_replay": _nothing("SNIP always scores the chunk that has come", switch=True),
        "use_llf": Alias("forget", value="llf", switch=True),
        "use_fc": Alias("forget", value="fc", switch=True),
        "use_shrink_perturb": Alias("forget", value="shrink_perturb", switch=True),
        "use_randinit": Alias("forget", value="randinit", switch=True),
        "sparsity_level": _nothing("LURE overwrites it by a constant; --snip_size is the share"),
        "weight_pruning": _nothing("LURE does not read it", switch=True),
        "wb": _nothing(_METRICS, switch=True),
        "project_name": _nothing(_METRICS),
        "log_dir": _nothing(_METRICS),
        "print_freq": _nothing(_METRICS),
        "checkpoint": _nothing("a run that was cut off always continues"),
        "resume": _nothing("a run that was cut off always continues", switch=True),
    }),
}  # fmt: skip


def translated(command: str, argv: Sequence[str], defaults: Mapping[str, object]) -> list[str]:
    """The command line with a seed's option names replaced by ours.

    `defaults` are the command's own values, by option. Raises InputError if two names set the same
    option, for a switch with a value, and for values that a spec cannot contain.
    """
    _, table = ALIASES.get(command, ("", {}))
    ours, found = _sorted_out(table, argv)
    native = {t[2:].partition("=")[0].replace("-", "_"): n for n, t in enumerate(ours)
              if t.startswith("--")}  # fmt: skip
    values: dict[str, dict[str | None, str]] = {}
    said: dict[str, str] = {}  # option -> the flag that set it, as the user wrote it
    for flag, name, text in found:
        alias = table[name]
        if alias.option is None:
            log.warning("%s has no effect: %s", flag, alias.why)
            continue
        key = alias.option if alias.part is None else f"{alias.part} of --{alias.option}"
        other = f"--{alias.option}" if alias.option in native else said.get(key)
        if other:
            raise InputError(f"{flag} stands for {alias.note}, and {other} says that too; give one")
        said[key] = flag
        if alias.value is not None:
            text = alias.value
        values.setdefault(alias.option, {})[alias.part] = alias.words.get(text, text)
    context = _Line(command, defaults, ours, values)
    for option, parts in values.items():
        text = parts[None] if None in parts else _SPECS[option](parts, context)
        ours += [f"--{option}={text}"]
    return ours


def _sorted_out(
    table: Mapping[str, Alias], argv: Sequence[str]
) -> tuple[list[str], list[tuple[str, str, str]]]:
    """The arguments that are not in the table, and (flag, name, value) of those that are."""
    ours: list[str] = []
    found: list[tuple[str, str, str]] = []
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        flag, equals, text = token.partition("=")
        name = flag.lstrip("-").replace("-", "_")
        if not flag.startswith("-") or name not in table:
            ours.append(token)
            continue
        alias = table[name]
        if any(name == n for _, n, _ in found):
            raise InputError(f"option {flag} is given twice")
        if alias.switch and (equals or (tokens and not tokens[0].startswith("-"))):
            raise InputError(f"option {flag} is a switch and takes no value")
        if not alias.switch and not equals:
            if not tokens or tokens[0].startswith("--"):
                raise InputError(f"option {flag} needs a value")
            text = tokens.pop(0)
        found.append((flag, name, text))
    return ours, found


def help_lines(command: str) -> list[str]:
    """The lines of --help on a command's aliases; empty if it has none."""
    seed, table = ALIASES.get(command, ("", {}))
    if not table:
        return []
    width = max(map(len, table)) + 2
    head = f"The names that {seed} gives its options are understood too (aliases):"
    return ["", head, *(f"  --{name:<{width}}{alias.note}" for name, alias in table.items())]


@dataclass(frozen=True)
class _Line:
    """The parsed part of a command line, from which specs are composed."""

    command: str
    defaults: Mapping[str, object]
    ours: Sequence[str]
    values: Mapping[str, Mapping[str | None, str]]

    def value(self, option: str) -> str:
        """An option's text: from its alias, its own name, or its default."""
        if None in self.values.get(option, {}):
            return self.values[option][None]
        for place, token in enumerate(self.ours):
            flag, equals, text = token.partition("=")
            if flag == f"--{option}":
                return text if equals else self.ours[place + 1 : place + 2][0]
        return str(self.defaults[option])

    @property
    def epochs(self) -> int:
        """The length of the run."""
        return whole(self.value("epoch_num"), "--epoch_num")


def _optim_of(parts: Mapping[str | None, str], line: _Line) -> str:
    """The spec of --optim: the command's own with parts replaced."""
    spec = parse_spec(str(line.defaults["optim"]), "--optim")
    if parts.get("name", spec["name"]) != spec["name"]:
        spec.pop("momentum", None)
        if line.command == "train_frequency" and parts["name"] == "sgd":  # FFR's SGD
            spec |= {"momentum": "0.9", "nesterov": "1"}
    spec |= {str(k): v for k, v in parts.items()}
    return ",".join(f"{k}={v}" for k, v in spec.items())


def _schedule_of(parts: Mapping[str | None, str], line: _Line) -> str | None:
    """The spec of --lr_schedule of FFR's --scheduler, or LURE's --decreasing_lr and --gamma."""
    if "scheduler" not in parts:
        at = [number(e, "--decreasing_lr")
              for e in parts.get("decreasing_lr", "").split(",") if e.strip()]  # fmt: skip
        own = parse_spec(str(line.defaults["lr_schedule"]), "--lr_schedule")
        places = _shares(at, line.epochs) if at else own["at"]
        return f"name=drops,power={parts.get('gamma', own['power'])},at={places}"
    name = parts["scheduler"]
    cosine = "name=cos_cycle_jump,low_v=0,min_jump_pt=0"
    last = max(line.epochs, 1)
    known = {
        "Step": f"name=drops,power=0.1,at={_shares(range(30, last, 30), last)}",
        "Step_wide": f"name=drops,power=0.2,at={_shares(range(60, last, 60), last)}",
        "FrankleStep": f"name=drops,power=0.1,at={_shares((80, 120), last)}",
        "Cosine": cosine,
        "scheduler": cosine,  # an error in FFR's README: the command above it has Cosine
        "WarmupCosine": "name=warmup_cosine",
        "None": "None",
    }
    if name not in known:
        raise unknown("--scheduler", name, known.keys() - {"scheduler"})
    return known[name]


def _shares(epochs: Sequence[float], last: int) -> str:
    """Epochs as shares of a run. Those after its end become 1, which is never reached."""
    return ":".join(repr(e / last) for e in epochs if e < last) or "1"


def _folder_of(parts: Mapping[str | None, str], line: _Line) -> str:
    """--data_dir from LURE's two folders: ImageNet has its own."""
    imagenet = "imagenet" in line.value("dataset")
    chosen = parts.get("imagenet_path") if imagenet else parts.get("data")
    return chosen or next(iter(parts.values()))


def _network_of(parts: Mapping[str | None, str], line: _Line) -> str:
    """--model_type from LURE's --arch, with or without the stem for large images."""
    return parts.get("arch", "resnet18") + parts.get("imagenet", "")


def _shots_of(parts: Mapping[str | None, str], line: _Line) -> str | None:
    """--shots from LURE's -few_shot and its number --n_shots, which alone has no effect."""
    if "few_shot" not in parts:
        log.warning("--n_shots has no effect: it is for -few_shot")
        return None
    return parts.get("n_shots", "100")


_SPECS: dict[str, Callable[[Mapping[str | None, str], _Line], str | None]] = {
    "optim": _optim_of,
    "lr_schedule": _schedule_of,
    "data_dir": _folder_of,
    "model_type": _network_of,
    "shots": _shots_of,
}
