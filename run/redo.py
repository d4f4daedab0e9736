"""Run the command that made a result again, and compare every number."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from ridgeline.run.shared.comparing import rows, same
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.redoing import redo
from ridgeline.train.options import Opt

Folder = Annotated[str | None, "base folder of relative input paths; None: that of the call"]
Tolerance = Annotated[float, Opt("largest relative difference that counts as equal", low=0)]
ModelType = Annotated[str | None, "external code of the result that is allowed to run; None: none"]


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


if __name__ == "__main__":
    launch(main)
