"""Two processes of one thread against one: efficiency of torchrun for scan, Hessian, training.

    python benchmarks/ranks.py scan
    python benchmarks/ranks.py hessian
    python benchmarks/ranks.py training

ResNet18 w=8 as it is initialised, 256 CIFAR-10-size images of noise, on the CPU. Every command is
timed as a whole, with little and with much work; the difference of both leaves out the start.
Efficiency is time of one / (2 x time of two).
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RUN = Path(__file__).parent.parent / "run"
#: question -> its command with a number for the amount of work, little work, much
QUESTIONS = {
    "scan": ("scan_param --model2load net.ckpt --subset_size 256 --batch_size 128 "
             "--vec1_scan min=-1,max=1,step={n} --model_name {name}", 0.5, 0.03125),
    "hessian": ("calc_hessian --model2load net.ckpt --subset_size 256 --batch_size 128 --topk 0 "
                "--trace_products {n} --out_file {name}", 3, 13),
    "training": ("train_normal --dataset noise.npz --model_type resnet --width 8 --augment False "
                 "--batch_size 128 --epoch_num {n} --eval_freq 1000 --out_folder . "
                 "--model_name {name} "
                 "--attack name=pgd,eps=8/255,step_size=2/255,iterations=10", 1, 5),
}  # fmt: skip


def seconds(line: str, processes: int) -> float:
    """How long a command takes in so many processes of one thread."""
    command, *options = line.split()
    start = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone",
                                       "--nproc_per_node", str(processes)]  # fmt: skip
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *start, str(RUN / f"{command}.py"), *options], check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
    )  # fmt: skip
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", choices=QUESTIONS)
    question = parser.parse_args().question
    line, *amounts = QUESTIONS[question]
    print(f"{platform.machine()}, {os.cpu_count()} cores, one thread a process")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        draw = np.random.default_rng(0)
        arrays = {}
        for part in ("train", "test"):
            arrays[f"{part}_images"] = draw.integers(256, size=(256, 32, 32, 3), dtype=np.uint8)
            arrays[f"{part}_labels"] = np.arange(256) % 10
        np.savez("noise.npz", **arrays)
        seconds("train_normal --dataset noise.npz --model_type resnet --width 8 --epoch_num 0 "
                "--out_folder . --model_name net --augment False", 1)  # fmt: skip
        times = {}
        for processes in (1, 2):
            few, many = (
                seconds(line.format(n=n, name=f"{processes}_{n}"), processes) for n in amounts
            )
            times[processes] = many - few
            print(f"{question}, {processes} processes: {few:.1f} s and {many:.1f} s, "
                  f"work {times[processes]:.1f} s")  # fmt: skip
        print(f"efficiency {times[1] / (2 * times[2]):.3f}")


if __name__ == "__main__":
    main()
