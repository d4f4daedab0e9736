"""Random SIGKILLs over a training run, a scan, a Hessian and a curve: do all end bit-identical?

    python benchmarks/kills.py --kills 20

Every command runs undisturbed once, then in other folders where it is killed and started again
until the kills are used up; a run that ends before its kill is compared and begun anew. Kills fall
anywhere (a random moment of the command's time, its start included), while a file is written (its
temporary file was there a moment before), and while training evaluates. At the end the numbers of
all results and checkpoints must be those of the undisturbed run to the last bit, and no other file
may be left. Exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from ridgeline.train.files.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
PGD = "name=pgd,threshold=0.1,step_size=0.05,iter_num=5"
_TRAIN = f"--out_folder runs --width 1 --batch_size 50 --optim name=adam,lr=1e-3 --attack {PGD}"
ANYWHERE, WRITING, EVALUATING = "anywhere", "while a file is written", "while it evaluates"
JOBS = {
    "training": f"train_normal --model_name at --epoch_num 6 --subset_size 600 {_TRAIN} "
    "--save_minutes 0.005",
    "scan": "scan_param --model2load runs/at.ckpt --subset_size 200 --vec1_scan step=0.2 "
    f"--vec2_scan step=0.5 --attack {PGD}",
    "Hessian": "calc_hessian --model2load runs/at.ckpt --subset_size 400 --topk 5 "
    f"--density_probes 2 --attack {PGD} --out_file runs/hessian",
    "curve": "train_curve --model_name curve --out_folder runs --fix_points 1,0,1 --epoch_num 4 "
    f"--model2load runs/at.ckpt,,runs/at.ckpt --subset_size 300 --attack {PGD}",
}
#: a process that says in a file when it evaluates; the command itself is as always
_CHILD = """
import runpy, sys
from pathlib import Path
import ridgeline.train.watching as watching
look, mark = watching.Watch.look, Path("evaluating")
def marked(*a, **k):
    mark.touch()
    try:
        return look(*a, **k)
    finally:
        mark.unlink()
watching.Watch.look = marked
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start(line: str, folder: Path) -> subprocess.Popen:
    (folder / "evaluating").unlink(missing_ok=True)  # a kill leaves it
    command, *words = line.split()
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(ROOT / "run" / f"{command}.py"), *words], cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def moment(kind: str, running: subprocess.Popen, folder: Path, wait: float) -> bool:
    """Wait for a moment of this kind, at least so many seconds away; False: it ended before."""
    begun = time.perf_counter()
    while running.poll() is None:
        if time.perf_counter() - begun > wait:
            if kind == ANYWHERE:
                return True
            if kind == EVALUATING and (folder / "evaluating").exists():
                return True
            if kind == WRITING and any(n.name.endswith(".tmp") for n in _files(folder)):
                return True
        time.sleep(0.0005 if kind == WRITING else 0.002)
    return False


def _files(folder: Path) -> Iterator[os.DirEntry]:
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _files(entry)
        else:
            yield entry


@dataclass
class Outcome:
    """What became of a command that was killed again and again."""

    met: Counter = field(default_factory=Counter)  # kills that met it at work, by their kind
    torn: int = 0  # kills that left a temporary file
    ended: int = 0  # runs that were compared with the undisturbed one
    apart: list[str] = field(default_factory=list)


def killed(
    line: str, calm: Path, folders: Iterator[Path], kills: int, whole: float,
    draws: np.random.Generator, kinds: tuple[str, ...],
) -> Outcome:  # fmt: skip
    """Kill the command until so many kills have met it at work; compare whatever it ends with.

    `folders` are new ones, prepared; `whole` is the time of the undisturbed command.
    """
    outcome, folder = Outcome(), next(folders)
    waiting = cycle(kinds)
    kind = next(waiting)
    while outcome.met.total() < kills:
        running = start(line, folder)
        if moment(kind, running, folder, draws.uniform(0.1, 0.9) * whole):
            running.kill()
            running.wait()
            outcome.met[kind] += 1
            outcome.torn += any(entry.name.endswith(".tmp") for entry in _files(folder))
            kind = next(waiting)
        elif running.returncode:
            raise SystemExit(f"{line}: does not go on after kills")
        else:
            outcome.ended += 1
            outcome.apart += differences(calm, folder)
            folder = next(folders)
    if start(line, folder).wait():
        raise SystemExit(f"{line}: does not go on after kills")
    outcome.ended += 1
    outcome.apart += differences(calm, folder)
    return outcome


def differences(one: Path, other: Path) -> list[str]:
    """Files that one folder lacks, and results and checkpoints whose numbers are not the same."""
    mine, theirs = ({p.relative_to(f) for p in f.rglob("*") if p.is_file()} for f in (one, other))
    found = [f"{path} is missing" for path in mine - theirs]
    found += [f"{path} is left" for path in theirs - mine]
    for path in sorted(mine & theirs):
        if path.suffix == ".nc":
            a, b = (xr.load_dataset(f / path, engine="h5netcdf") for f in (one, other))
            a, b = (ds.drop_vars("seconds", errors="ignore") for ds in (a, b))
            found += [] if a.equals(b) else [str(path)]
        elif path.suffix == ".ckpt":
            a, b = (load_checkpoint(f / path).tensors for f in (one, other))
            same = a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
            found += [] if same else [str(path)]
    return found


def prepared(root: Path, name: str, before: list[str], calm: Path) -> Iterator[Path]:
    """New folders with what the commands before have made."""
    number = 0
    while True:
        folder = root / f"{name}_{number}"
        folder.mkdir()
        if before:
            (folder / "runs").mkdir()
            for path in (calm / "runs").iterdir():
                if path.name in before:
                    (folder / "runs" / path.name).write_bytes(path.read_bytes())
        yield folder
        number += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draws = np.random.default_rng(options.seed)
    each = -(-options.kills // len(JOBS))
    wrong = 0
    print(
        "| command | undisturbed | kills | files cut short | runs compared | |\n" + "|---" * 6 + "|"
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        before: list[str] = []
        for name, line in JOBS.items():
            calm = next(prepared(root, f"{name}_calm", before, root / "training_calm_0"))
            began = time.perf_counter()
            if start(line, calm).wait():
                raise SystemExit(f"{name}: fails undisturbed")
            whole = time.perf_counter() - began
            kinds = (ANYWHERE, WRITING, *[EVALUATING] * (name == "training"))
            folders = prepared(root, name, before, root / "training_calm_0")
            outcome = killed(line, calm, folders, each, whole, draws, kinds)
            if name == "training":
                before = [p.name for p in (calm / "runs").iterdir()]
            said = ", ".join(f"{count} {kind}" for kind, count in outcome.met.items())
            apart = f"DIFFERENT: {', '.join(outcome.apart)}" if outcome.apart else "bit-identical"
            wrong += len(outcome.apart)
            cells = (name, f"{whole:.1f} s", said, outcome.torn, outcome.ended, apart)
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
