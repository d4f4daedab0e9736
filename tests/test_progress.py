"""The progress bar is never silent, also on a terminal without a size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
import time
from ridgeline.train.progress import progress
with progress(10**6, "work", "image") as bar:
    bar.update(10**5)  # fast at first, as a clean epoch is: tqdm would learn a large stride
    for _ in range(12):
        time.sleep(0.15)
        bar.update(1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_bar_shows_on_a_terminal_without_size_and_when_work_slows():
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            data = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        seen += data
    os.close(ours)
    assert process.wait() == 0
    assert seen.count(b"work:") >= 4  # 1.8 s at two bars a second
