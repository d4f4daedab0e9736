"""Random SIGKILLs over a training run, a scan, a Hessian and a curve: do all end bit-identical?

    python benchmarks/kills.py --kills 20

Every command runs undisturbed once, then in another folder where it is killed and started again
until the kills are used up. Kills fall anywhere in the command's time, start and writing included.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from ridgeline.train.files.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
PGD = "name=pgd,threshold=0.1,step_size=0.05,iter_num=5"
_TRAIN = f"--out_folder runs --width 1 --batch_size 50 --optim name=adam,lr=1e-3 --attack {PGD}"
JOBS = {
    "training": f"train_normal --model_name at --epoch_num 6 --subset_size 600 {_TRAIN}",
    "scan": "scan_param --model2load runs/at.ckpt --subset_size 200 --vec1_scan step=0.2 "
    f"--vec2_scan step=0.5 --attack {PGD}",
    "Hessian": "calc_hessian --model2load runs/at.ckpt --subset_size 400 --topk 5 "
    f"--density_probes 2 --attack {PGD} --out_file runs/hessian",
    "curve": "train_curve --model_name curve --out_folder runs --fix_points 1,0,1 --epoch_num 4 "
    f"--model2load runs/at.ckpt,,runs/at.ckpt --subset_size 300 --attack {PGD}",
}


def start(line: str, folder: Path) -> subprocess.Popen:
    command, *words = line.split()
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run" / f"{command}.py"), *words], cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def killed(line: str, folder: Path, kills: int, whole: float, draws: np.random.Generator) -> int:
    """Start, kill and start again; returns how many kills met a process at work."""
    met = 0
    for _ in range(kills):
        running = start(line, folder)
        try:
            running.wait(draws.uniform(0.1, 1) * whole)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
            met += 1
    if start(line, folder).wait():
        raise SystemExit(f"{line}: does not go on after kills")
    return met


def differences(one: Path, other: Path) -> list[str]:
    """Result files and checkpoints whose numbers are not the same to the last bit."""
    found = []
    for path in sorted(p for p in one.rglob("*") if p.suffix in (".nc", ".ckpt")):
        twin = other / path.relative_to(one)
        if not twin.exists():
            found.append(f"{path.name} is missing")
        elif path.suffix == ".nc":
            a, b = (xr.load_dataset(p, engine="h5netcdf").drop_vars("seconds", errors="ignore")
                    for p in (path, twin))  # fmt: skip
            found += [] if a.equals(b) else [path.name]
        else:
            a, b = load_checkpoint(path).tensors, load_checkpoint(twin).tensors
            same = a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
            found += [] if same else [path.name]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draws = np.random.default_rng(options.seed)
    each = -(-options.kills // len(JOBS))
    with tempfile.TemporaryDirectory() as folder:
        calm, disturbed = Path(folder, "calm"), Path(folder, "disturbed")
        calm.mkdir(), disturbed.mkdir()
        for name, line in JOBS.items():
            began = time.perf_counter()
            if start(line, calm).wait():
                raise SystemExit(f"{name}: fails undisturbed")
            whole = time.perf_counter() - began
            met = killed(line, disturbed, each, whole, draws)
            apart = differences(calm, disturbed)
            verdict = f"DIFFERENT: {', '.join(apart)}" if apart else "bit-identical"
            print(f"{name}: {whole:.1f} s undisturbed, {met} of {each} kills met it at work, "
                  f"{verdict}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
