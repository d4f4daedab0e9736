"""Match the tensors of a file with those of a network by their names."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ridgeline.models.errors import InputError
from ridgeline.train.files.foreign import WRAPPERS
from ridgeline.train.files.integrity import check_real, ties_of

log = logging.getLogger(__name__)

#: counters that may be missing in a file: of averages (AveragedModel), of batches (BatchNorm)
_COUNTERS = ("n_averaged", "num_batches_tracked")
#: pairs of words in the names of the constants (mean, std) of a network's normalisation
_CONSTANTS = (("mean", "std"), ("mu", "sigma"))

Normalization = dict[str, list[float]]


@dataclass(frozen=True)
class Fitted:
    """A full state dict under a network's own names, and the normalisation constants of the file.

    `constants` are pairs (mean, std) per channel, as in the file.
    """

    state: dict[str, Tensor]
    constants: frozenset[tuple[tuple[float, ...], tuple[float, ...]]]

    def normalization(self, what: str) -> Normalization | None:
        """{"mean": [...], "std": [...]} for images in [0,1]; InputError if it is ambiguous."""
        if not self.constants:
            return None
        mean, std = next(iter(self.constants))
        fits = all(0 <= m <= 1 for m in mean) and all(0 < s <= 2 for s in std)
        if len(self.constants) > 1 or not fits:
            raise InputError(
                f"{what} stores a normalisation that is not one for images in [0,1], mean and std "
                f"{' or '.join(map(str, sorted(self.constants)))}; say what to do with --normalize"
            )
        return {"mean": list(mean), "std": list(std)}


def fit_to(tensors: Mapping[str, Tensor], network: nn.Module, what: str, hint: str = "") -> Fitted:
    """Find the network's state in the tensors of a file, which may use other prefixes.

    Allowed differences:

    - prefixes of names, and names added by wrappers of torch;
    - another name of a module, if the shapes leave only one choice (`fc` for `classifier`);
    - missing counters;
    - a normalisation layer in only one of file and network.

    Raises InputError for all other tensors that are missing, unknown, of another shape or type, or
    not finite, and for tied parameters with different values. `what` is the file's name in
    messages; `hint` is added to messages about the architecture.
    """
    expected = network.state_dict(keep_vars=True)
    pairs, prefixes, copies = _pairs(expected, tensors, what)
    unused = set(tensors) - set(pairs.values()) - copies
    found = {k: t for k, t in tensors.items() if k in unused and not _is_counter(k)}
    missing = {k: t for k, t in expected.items() if k not in pairs and not _is_counter(k)}
    ours, theirs = _constant_pairs(missing), _constant_pairs(found)
    if len(ours) == len(theirs) == 1:  # the network has them too, under another name
        pairs |= dict(zip(ours[0], theirs[0], strict=True))
        theirs = []
    surplus = {k: t for k, t in found.items() if k not in {n for p in theirs for n in p}}
    missing = {k: t for k, t in missing.items() if k not in {n for p in ours for n in p}}
    surplus = {k: t for k, t in surplus.items() if k not in pairs.values()}
    pairs |= _renamed(missing, surplus, prefixes, what)
    state = {name: tensors[key] for name, key in pairs.items()}
    for name in (n for pair in _constant_pairs(expected) for n in pair if n in state):
        if state[name].numel() == expected[name].numel():  # (3,) and (1, 3, 1, 1) are equivalent
            state[name] = state[name].reshape(expected[name].shape)
    for group in ties_of(expected):
        held = [name for name in group if name in state]
        if not all(_same(state[held[0]], state[name]) for name in held[1:]):
            raise InputError(
                f"{what}: {' and '.join(held)} are one tensor in the network, and differ in the "
                "file; it is of a network that does not tie them"
            )
        state |= {name: state[held[0]] for name in group if held}
    absent = [name for name in missing if name not in state]
    unknown = [k for k in surplus if k not in pairs.values()]
    _check_shapes(state, expected, absent, unknown, what, hint)
    for name, tensor in state.items():
        _check_values(name, tensor, expected[name], what)
    kept = {name: t.detach() for name, t in expected.items() if name not in state}
    constants = {tuple(tuple(found[n].double().flatten().tolist()) for n in p) for p in theirs}
    return Fitted(state | kept, frozenset(constants))


def _pairs(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], what: str
) -> tuple[dict[str, str], tuple[str, str], set[str]]:
    """Pairs network name -> file name, the prefixes used, and further copies in the file.

    A network name is q.r and the file's name p.r, with the same q and p for all names: those that
    give the most pairs. Outside q the network has only constants of a normalisation. Segments of
    wrappers are removed from both names only if this gives more pairs.
    """
    apart = {name for pair in _constant_pairs(expected) for name in pair}
    best: dict[tuple[str, str], dict[str, str]] = {}
    for through in (False, True):
        ours, theirs = _seen(expected, through), _seen(tensors, through)
        if not ours:
            continue
        inner = [short for short, name in ours.items() if name not in apart]
        found = _by_prefix(ours, theirs, set.intersection(*map(_prefixes, inner or ours)))
        if found and (not best or _most(found) > _most(best)):
            best = found
    if not best:
        return {}, ("", ""), set()
    prefixes, first = next(iter(best.items()))
    others = [pairs for pairs in best.values() if pairs != first]
    same = [p for p in others if all(_same(tensors[k], tensors[p[n]])
                                     for n, k in first.items() if n in p)]  # fmt: skip
    full = len(first) >= sum(not _is_counter(name) for name in expected)
    if full and len(same) < len(others):
        starts = sorted({next(iter(p.values())) for p in (first, *others)})
        raise InputError(
            f"{what} holds several networks that fit (see {', '.join(starts[:3])}); name the "
            "prefix of one with --state_key"
        )
    return first, prefixes, {key for pairs in same for key in pairs.values()} if full else set()


def _by_prefix(
    ours: Mapping[str, str], theirs: Mapping[str, str], allowed: Collection[str]
) -> dict[tuple[str, str], dict[str, str]]:
    """(q, p) -> pairs, for the prefixes with the most pairs; q in `allowed`, shortest first."""
    rests: dict[str, list[tuple[str, str]]] = {}
    for name, original in ours.items():
        for q, rest in _splits(name):
            if q in allowed:
                rests.setdefault(rest, []).append((q, original))
    votes = Counter(
        (q, p) for key in theirs for p, rest in _splits(key) for q, _ in rests.get(rest, [])
    )
    most = max(votes.values(), default=0)
    best = [prefixes for prefixes, count in votes.items() if count == most]
    best.sort(key=lambda prefixes: (sum(map(len, prefixes)), prefixes))
    pairs: dict[tuple[str, str], dict[str, str]] = {}
    for q, p in best[:8]:
        under = {rest: original for rest, found in rests.items() for k, original in found if k == q}
        pairs[q, p] = {
            under[rest]: original
            for key, original in theirs.items()
            for k, rest in _splits(key)
            if k == p and rest in under
        }
    return pairs


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _most(found: Mapping[tuple[str, str], dict[str, str]]) -> int:
    return max(map(len, found.values()))


def _seen(names: Sequence[str] | Mapping[str, Tensor], through: bool) -> dict[str, str]:
    """Name, or with `through` name without wrapper segments -> name; empty if two become equal."""
    if not through:
        return {name: name for name in names}
    short = {".".join(s for s in n.split(".") if s not in WRAPPERS): n for n in names}
    return short if len(short) == len(names) else {}


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """(prefix, rest) at every dot, and ("", name)."""
    yield "", name
    for place, letter in enumerate(name):
        if letter == ".":
            yield name[:place], name[place + 1 :]


def _prefixes(name: str) -> set[str]:
    return {prefix for prefix, _ in _splits(name)}


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] in _COUNTERS


def _constant_pairs(tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """The names of mean and std in pairs: vectors with one number per channel."""
    pairs = []
    for name, tensor in tensors.items():
        owner, dot, last = name.rpartition(".")
        for mean, std in _CONSTANTS:
            partner = f"{owner}{dot}{last.replace(mean, std)}"
            other = tensors.get(partner) if mean in last else None
            per_channel = tensor.numel() == max(tensor.shape, default=1) <= 4
            if other is not None and other.shape == tensor.shape and per_channel:
                pairs.append((name, partner))
    return pairs


def _renamed(
    missing: Mapping[str, Tensor], surplus: Mapping[str, Tensor], prefixes: tuple[str, str],
    what: str,
) -> dict[str, str]:  # fmt: skip
    """Pairs for the remaining names if modules have other names in the file; empty if ambiguous.

    Two names fit if exactly one segment differs and the shapes are equal. Every name must fit
    exactly one other, so nothing is guessed.
    """
    ours, theirs = (
        {name: _segments(name, prefix) for name in names}
        for names, prefix in zip((missing, surplus), prefixes, strict=True)
    )
    pairs, renamed = {}, {}
    for name, parts in ours.items():
        fits = [
            (key, next((a, b) for a, b in zip(parts, others, strict=True) if a != b))
            for key, others in theirs.items()
            if missing[name].shape == surplus[key].shape
            and len(parts) == len(others)
            and sum(a != b for a, b in zip(parts, others, strict=True)) == 1
        ]
        if len(fits) != 1:
            return {}
        ((pairs[name], (own, their)),) = fits
        if renamed.setdefault(own, their) != their:
            return {}
    if set(pairs.values()) != set(surplus) or len(set(renamed.values())) != len(renamed):
        return {}
    for own, their in renamed.items():
        log.warning("%s: its %s is taken for the network's %s", what, their, own)
    return pairs


def _segments(name: str, prefix: str) -> list[str]:
    parts = [s for s in name.split(".") if s not in WRAPPERS]
    skip = [s for s in prefix.split(".") if s and s not in WRAPPERS]
    return parts[len(skip) :] if parts[: len(skip)] == skip else parts


def _check_shapes(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], missing: Sequence[str],
    unknown: Sequence[str], what: str, hint: str,
) -> None:  # fmt: skip
    shapes = [
        f"{name} is {tuple(t.shape)}, the network has {tuple(expected[name].shape)}"
        for name, t in state.items()
        if t.shape != expected[name].shape
    ]
    parts = [
        f"lacks {', '.join(sorted(missing)[:3])}" if missing else "",
        f"has unknown {', '.join(sorted(unknown)[:3])}" if unknown else "",
        "; ".join(shapes[:2]),
    ]
    if any(parts):
        raise InputError(
            f"{what} is of another architecture ({'; '.join(p for p in parts if p)}){hint}"
            "; check --model_type, --width and --bias"
        )


def _check_values(name: str, tensor: Tensor, own: Tensor, what: str) -> None:
    """Raise InputError unless the values are possible for that tensor of the network.

    A buffer may be infinite if the network's own is (attention masks).
    """
    kinds = {(t.is_floating_point(), t.is_complex()) for t in (tensor, own)}
    if len(kinds) > 1:
        raise InputError(
            f"{what}: {name} holds {str(tensor.dtype).removeprefix('torch.')} numbers, the network "
            f"{str(own.dtype).removeprefix('torch.')}; quantised or converted weights cannot be "
            "measured"
        )
    values = tensor.to(own)
    check_real(name, values if isinstance(own, nn.Parameter) else values[own.isfinite()], what)
