"""The differences between the numbers of two files, by name."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from ridgeline.landscape.result import load_result
from ridgeline.train.files.checkpoint import load_checkpoint

_SHOWN = 20
_NO_DISTANCE = "missing, new, or not comparable"
#: measured times, which differ in every run
TIMES = {"seconds", "eval_seconds"}


@dataclass(frozen=True)
class Compared:
    """One file and its repetition: the differences of recipes and numbers."""

    path: Path
    changed: str
    apart: Mapping[str, float] = field(default_factory=dict)


def compare(first: Path, second: Path) -> dict[str, float]:
    """The largest relative difference of every entry of two files with one suffix, by name.

    - 0: all numbers are equal.
    - Infinity: another shape, type or text, an entry that one file does not have, or NaN or
      infinity in only one file.
    - Weights are compared relative to the largest entry of their tensor, because single weights
      may be close to zero. Numbers of results and metrics are compared one by one.
    - Times (`TIMES`) are not compared.
    """
    read, measure = {
        ".nc": (_numbers_of_result, apart),
        ".ckpt": (_numbers_of_checkpoint, _tensors_apart),
        ".jsonl": (_numbers_of_metrics, apart),
    }[first.suffix]
    one, two = read(first), read(second)
    return {
        name: measure(one[name], two[name]) if name in one and name in two else math.inf
        for name in sorted(one.keys() | two.keys())
    }


def apart(one: np.ndarray, two: np.ndarray, *, together: bool = False) -> float:
    """The largest |a - b| / max(|a|, |b|). `together` divides by the largest of all entries."""
    if one.shape != two.shape:
        return math.inf
    if one.dtype.kind not in "fciu" or two.dtype.kind not in "fciu":
        return 0.0 if np.array_equal(one, two) else math.inf
    if one.dtype != two.dtype:
        return math.inf
    same = (one == two) | ((one != one) & (two != two))  # two NaN count as equal
    if same.all():
        return 0.0
    kind = complex if one.dtype.kind == "c" else float
    a, b = one[~same].astype(kind), two[~same].astype(kind)
    size = np.maximum(abs(a), abs(b))
    if together:
        size = max(abs(x[np.isfinite(x)]).max(initial=0) for x in (one, two)) or size
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(np.isfinite(a) & np.isfinite(b), abs(a - b) / size, math.inf)
    # integers above 2^53 may differ by less than a float can represent
    return max(float(ratio.max()), math.ulp(0.0))


def _tensors_apart(one: Tensor, two: Tensor) -> float:
    if one.dtype != two.dtype:
        return math.inf
    if one.dtype.itemsize < 4 and one.is_floating_point():  # NumPy has no bfloat16
        one, two = one.float(), two.float()
    return apart(one.numpy(), two.numpy(), together=True)


def _numbers_of_result(path: Path) -> dict[str, np.ndarray]:
    """Variables, and attributes that are numbers, as VARIABLE.ATTRIBUTE."""
    dataset = load_result(path)
    numbers = {str(k): v.values for k, v in dataset.variables.items() if k not in TIMES}
    for owner, holder in (("", dataset), *dataset.variables.items()):
        numbers |= {f"{owner}.{k}": v for k, v in _numeric(holder) if owner not in TIMES}
    return numbers


def _numeric(holder: xr.Dataset | xr.Variable) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in holder.attrs.items():
        if np.asarray(value).dtype.kind in "fciub":
            yield name, np.asarray(value)


def _numbers_of_checkpoint(path: Path) -> dict[str, Tensor]:
    """The network's tensors and the further tensors of the file."""
    checkpoint = load_checkpoint(path)
    return checkpoint.tensors | {f"beside {k}": v for k, v in checkpoint.beside().items()}


def _numbers_of_metrics(path: Path) -> dict[str, np.ndarray]:
    """The values of every key over all lines, by the key's dotted path."""
    series: dict[str, list] = {}
    lines = path.read_text().splitlines()
    for line in lines:
        for name, value in _leaves(json.loads(line), ""):
            series.setdefault(name, []).append(value)
    return {name: np.asarray(values) for name, values in series.items()}


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        yield place, value
        return
    for key, inner in value.items():
        if key not in TIMES:
            yield from _leaves(inner, f"{place}.{key}".lstrip("."))


def same(compared: Compared, tolerance: float) -> bool:
    """Whether the second file has the same recipe and the same numbers."""
    return not compared.changed and max(compared.apart.values(), default=0.0) <= tolerance


def rows(compared: Compared, tolerance: float) -> list[str]:
    """A line for the file, and lines for its recipe and for each name that differs."""
    far = {k: v for k, v in compared.apart.items() if v}
    word = "the same" if same(compared, tolerance) else "DIFFERENT"
    known = [v for v in far.values() if math.isfinite(v)]
    how = [f"apart by at most {max(known):.1e}"] if known else []
    if len(far) > len(known):
        how.append(f"{len(far) - len(known)} {_NO_DISTANCE}")
    how = ", ".join(how) or "bit for bit"
    lines = [f"{compared.path.name:40} {word}: {len(compared.apart)} names, {how}"]
    if compared.changed:
        lines.append(f"  recipe: {compared.changed}")
    order = sorted(far, key=far.__getitem__, reverse=True)
    lines += [f"  {name:38} {_distance(far[name])}" for name in order[:_SHOWN]]
    return lines + [f"  and {len(far) - _SHOWN} more"] * (len(far) > _SHOWN)


def _distance(far: float) -> str:
    return f"{far:.1e}" if math.isfinite(far) else _NO_DISTANCE
