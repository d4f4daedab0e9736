"""Run the command that made a result again, and compare every number."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated

from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.redoing import Compared, redo
from ridgeline.train.options import Opt

Folder = Annotated[str | None, "base folder of relative input paths; None: that of the call"]
Tolerance = Annotated[float, Opt("largest relative difference that counts as equal", low=0)]
ModelType = Annotated[str | None, "external code of the result that is allowed to run; None: none"]
_SHOWN = 20


def main(
    *,
    result: Annotated[str, "result .nc, checkpoint .ckpt or metrics .jsonl"],
    folder: Folder = None,
    tolerance: Tolerance = 0.0,
    model_type: ModelType = None,
) -> None:
    """Exit status 0: the same numbers; 1: different numbers; 2: the result cannot be repeated.

    The second run writes into a temporary folder. The result and the files beside it do not
    change. Times, dates and versions are not compared.
    """
    redone = redo(Path(result), folder and Path(folder), model_type)
    print("\n".join(line for compared in redone.files for line in rows(compared, tolerance)))
    if not all(same(compared, tolerance) for compared in redone.files):
        print(f"around it: {redone.around or 'the same versions, source and threads'}")
        sys.exit(1)


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
        how.append(f"{len(far) - len(known)} missing, new, or not comparable")
    how = ", ".join(how) or "bit for bit"
    lines = [f"{compared.path.name:40} {word}: {len(compared.apart)} names, {how}"]
    if compared.changed:
        lines.append(f"  recipe: {compared.changed}")
    order = sorted(far, key=far.__getitem__, reverse=True)
    lines += [f"  {name:38} {_distance(far[name])}" for name in order[:_SHOWN]]
    return lines + [f"  and {len(far) - _SHOWN} more"] * (len(far) > _SHOWN)


def _distance(far: float) -> str:
    return f"{far:.1e}" if math.isfinite(far) else "missing, new, or not comparable"


if __name__ == "__main__":
    launch(main)
