"""Anytime learning: data in chunks, replay of earlier chunks, forgetting between chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn

from ridgeline.models.errors import InputError, unknown
from ridgeline.train.data.examples import Images
from ridgeline.train.data.noise import Purpose, another_seed, generator_of, stream
from ridgeline.train.options import Opt, Options
from ridgeline.train.parts.forgetting import forget, forgettable, lowest, new_values
from ridgeline.train.parts.saliency import snip

#: the training data after a new chunk
REPLAYS = {"full": "all chunks so far", "none": "the last", "one": "the last two",
           "buffer": "the last, and some of each before"}  # fmt: skip
FORGETTING = ("snip", "llf", "fc", "shrink_perturb", "randinit", "none")

_SHRINKS = {"forget": ("shrink_perturb",)}


@dataclass(frozen=True)
class LureOptions(Options):
    """The chunks of data, their replay, and the forgetting between them."""

    meta_batch_size: Annotated[
        int, Opt("examples in a chunk; a tenth of them is for validation")
    ] = 6250
    meta_batch_number: Annotated[int, Opt("chunks")] = 8
    replay: Annotated[str, Opt("data that are trained on with a chunk", choices=REPLAYS)] = "full"
    buffer_size_train: Annotated[
        int,
        Opt("examples kept of each earlier chunk, for buffer", low=1, only={"replay": ("buffer",)}),
    ] = 182
    buffer_size_val: Annotated[
        int,
        Opt("validation examples kept of each earlier chunk, for buffer", low=1,
            only={"replay": ("buffer",)}),
    ] = 182  # fmt: skip
    shots: Annotated[
        int | None, Opt("training examples kept of every class, few-shot; None: all", low=1)
    ] = None
    use_snip: Annotated[
        bool,
        Opt("forget the weights of lowest saliency before every chunk", only={"forget": (None,)}),
    ] = True  # fmt: skip
    snip_size: Annotated[
        float,
        Opt(
            "share of the weights that are forgotten, and of the chunk that scores them",
            above=0,
            high=1,
            only={"forget": (None, "snip"), "use_snip": ()},
        ),
    ] = 0.2
    forget: Annotated[
        str | None, Opt("another rule of forgetting; None: --use_snip", choices=FORGETTING)
    ] = None
    shrink: Annotated[float, Opt("factor of shrink_perturb", low=0, high=1, only=_SHRINKS)] = 0.3
    perturb: Annotated[float, Opt("standard deviation of shrink_perturb", low=0, only=_SHRINKS)] = (
        0.001
    )

    @property
    def rule(self) -> str:
        """The chosen rule of forgetting."""
        return self.forget or ("snip" if self.use_snip else "none")


def chunks(images: Images, size: int, number: int, seed: int) -> list[Images]:
    """`number` disjoint random chunks of `size` examples. Raises InputError for too few images."""
    if size < 10 or number < 1 or size * number > len(images):
        raise InputError(
            f"{number} chunks of {size} do not fit: chunks hold 10 or more examples, and "
            f"{images.name} has {len(images)}"
        )
    order = torch.from_numpy(stream(seed, Purpose.CHUNKS).permutation(len(images)))
    return [images.take(part.sort().values) for part in order[: size * number].split(size)]


def few(images: Images, shots: int, seed: int) -> Images:
    """`shots` random examples of every class, in the order of the set.

    Raises InputError, naming the class, if one has fewer.
    """
    draw, chosen = stream(seed, Purpose.CHUNKS, 1), []
    for label in images.labels.unique().tolist():
        places = (images.labels == label).nonzero().flatten()
        if len(places) < shots:
            raise InputError(
                f"--shots {shots}: class {label} of {images.name} has only {len(places)} examples"
            )
        chosen.append(places[torch.from_numpy(draw.permutation(len(places)))[:shots]])
    return images.take(torch.cat(chosen).sort().values)


def replayed(parts: Sequence[Images], replay: str, buffer_size: int, seed: int) -> Images:
    """The training data after the last of `parts`.

    `full`: all so far. `none`: the last. `one`: the last two. `buffer`: the last, and `buffer_size`
    random examples of each earlier chunk. Raises InputError for an unknown mode.
    """
    if replay not in REPLAYS:
        raise unknown("--replay", replay, REPLAYS)
    chosen = {"full": parts, "none": parts[-1:], "one": parts[-2:]}.get(replay)
    if chosen is None:
        kept = [
            p.subset(min(buffer_size, len(p)), another_seed(seed, n))
            for n, p in enumerate(parts[:-1])
        ]
        chosen = [*kept, parts[-1]]
    return join(chosen)


@dataclass(frozen=True)
class Chunks:
    """Chunks in order, each with a training part and a tenth for validation."""

    parts: Sequence[tuple[Images, Images]]
    options: LureOptions
    seed: int

    @classmethod
    def of(cls, images: Images, options: LureOptions, seed: int) -> Chunks:
        """The chunks of an image set. Raises InputError for too few images."""
        if options.shots is not None:
            images = few(images, options.shots, seed)
        found = chunks(images, options.meta_batch_size, options.meta_batch_number, seed)
        return cls([part.split(0.1) for part in found], options, seed)

    def __len__(self) -> int:
        return len(self.parts)

    def come(self, number: int) -> tuple[Images, Images]:
        """The training and validation images at chunk `number` (from 0), with replayed ones."""
        given, seen = self.options, zip(*self.parts[: number + 1], strict=True)
        training, validation = (
            replayed(parts, given.replay, size, self.seed)
            for parts, size in zip(
                seen, (given.buffer_size_train, given.buffer_size_val), strict=True
            )
        )
        return training, validation

    def forget(self, network: nn.Module, number: int, fresh: Callable[[int], nn.Module]) -> int:
        """Forget, in place, before chunk `number`; returns the number of changed weights.

        Saliency is computed on that chunk.
        """
        device = next(network.parameters()).device
        return forget_between(
            network, self.options, images=self.parts[number][0], fresh=fresh, seed=self.seed,
            chunk=number, device=device,
        )  # fmt: skip


def join(parts: Sequence[Images]) -> Images:
    """Several image sets as one, ordered by index."""
    index = torch.cat([p.index for p in parts])
    order = index.argsort()
    first, parts = parts[0], [p.loaded() for p in parts]
    return Images(
        torch.cat([p.pixels for p in parts])[order], torch.cat([p.labels for p in parts])[order],
        index[order], first.name, first.num_classes,
    )  # fmt: skip


def forget_between(
    network: nn.Module,
    options: LureOptions,
    *,
    images: Images,
    fresh: Callable[[int], nn.Module],
    seed: int,
    chunk: int,
    device: torch.device | str = "cpu",
) -> int:
    """Forget, in place, before chunk `chunk` (from 1); returns the number of changed weights.

    The rules are:

    - `snip` (LURE): re-initialises the share `snip_size` of all convolution and linear weights,
      those with the lowest saliency on the same share of `images`.
    - `llf`: re-initialises the later stages and the classifier.
    - `fc`: re-initialises the classifier.
    - `shrink_perturb`: weights * shrink + perturb * N(0, 1) (Ash and Adams 2020).
    - `randinit`: the initial network again.
    - `none`: no change.

    BatchNorm is never re-initialised.
    """
    rule = options.rule
    if rule == "none":
        return 0
    if rule == "randinit":
        network.load_state_dict(fresh(seed).state_dict())
        return sum(p.numel() for p in network.parameters())
    weights = forgettable(network, "all", shortcut=True)
    if rule == "shrink_perturb":
        generator = generator_of(seed, Purpose.SHRINK_PERTURB, chunk)
        with torch.no_grad():
            for w in weights.values():
                noise = torch.randn(w.shape, generator=generator).to(w)
                w.mul_(options.shrink).add_(noise, alpha=options.perturb)
        return sum(w.numel() for w in weights.values())
    if rule == "snip":
        count = max(1, round(options.snip_size * len(images)))
        saliency = snip(network, images.subset(count, seed), device=device)
        masks = lowest({n: saliency[n] for n in weights}, options.snip_size, together=True)
    else:
        weights = forgettable(network) if rule == "llf" else classifier_of(network)
        masks = {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items()}
    values = new_values(weights, "fresh", fresh=fresh, seed=seed, cycle=chunk, stable={})
    forget(weights, masks, values)
    return int(sum(m.sum() for m in masks.values()))


def classifier_of(network: nn.Module) -> dict[str, torch.Tensor]:
    """The weight matrix of the classifier, by name."""
    with_it = forgettable(network, "all", shortcut=True)
    without = forgettable(network, "all", shortcut=True, classifier=False)
    return {n: w for n, w in with_it.items() if n not in without}
