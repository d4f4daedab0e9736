"""Commands that are killed, also while a file is written: same numbers, and nothing left over."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ridgeline.train.files.recipe import write_atomically

ROOT = Path(__file__).resolve().parent.parent


def test_what_a_killed_process_left_of_a_file_goes_with_the_next_writing(tmp_path):
    """Sees temporary files of killed writers pile up, or one of a living writer be taken away."""
    path, host = tmp_path / "a.[1].ckpt", socket.gethostname()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = [tmp_path / f".{path.name}.{h}.{n}.tmp" for h, n in (
        (host, dead.pid), (host, os.getppid()), ("elsewhere", dead.pid), (host, "x"))]  # fmt: skip
    left.append(tmp_path / f".b.ckpt.{host}.{dead.pid}.tmp")
    for file in left:
        file.write_text("half")
    write_atomically(path, lambda p: p.write_text("whole"))
    assert path.read_text() == "whole"
    assert [file.exists() for file in left] == [False, True, True, True, True]


@pytest.mark.slow
def test_killed_commands_end_with_the_same_numbers_and_leave_nothing():
    """Sees a training run, scan, Hessian or curve that goes on from half a file."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/kills.py", "--kills", "12", "--seed", "1"],
        capture_output=True, text=True, cwd=ROOT, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("bit-identical") == 4
    assert "while a file is written" in done.stdout and "while it evaluates" in done.stdout
