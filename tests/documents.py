"""The code of README and docs, as tests run it: one reading, one way to make it short."""

from __future__ import annotations

import contextlib
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.commands import ROOT, call

#: words that a shell gives for every command line, then a mark; environments are made already
LISTING = """
set -eu
ridgeline() { printf '%s\\037' "$@"; printf '\\036\\n'; }
torchrun() { shift 2; first=${1#*run/}; shift; ridgeline "${first%.py}" "$@"; }
make() { printf 'make\\037%s\\037\\036\\n' "$1"; }
source() { :; }
"""
#: what makes a command line short: numbers of these options are at most so large
AT_MOST = {
    "subset_size": 12, "eval_size": 6, "train_size": 6, "held_out": 6, "width": 1,
    "batch_size": 6, "topk": 2, "draws": 2, "steps": 2, "inputs": 1, "trace_products": 3,
    "linearity_steps": 2, "density_probes": 2, "density_steps": 4, "gradient_size": 6,
    "certify_size": 6,
}  # fmt: skip
#: and these, where a command has the option and the line does not give it
ALWAYS = {"subset_size": 12, "eval_size": 6}
#: within specs of attacks and axes
SPECS = ((r"\b(iter_num|iterations)=\d+", r"\1=1"), (r"(?<=,)step=0\.\d+", "step=1"))


class Block(NamedTuple):
    """A fenced block: its language, the file it is meant to be (or ""), and its text."""

    language: str
    title: str
    text: str


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', text, re.S | re.M)
    return [Block(*parts) for parts in found]


def expanded(script: str) -> list[list[str]]:
    """The command lines of a shell script, as words: loops and names expanded by the shell."""
    done = subprocess.run(
        ["bash", "-c", LISTING + script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [record.split("\037")[:-1] for record in done.stdout.split("\036\n")[:-1]]


def shortened(line: list[str], known: set[str]) -> list[str]:
    """The line with less work in it; `known` are the options that its command has."""
    words = [re.sub(*SPECS[0], re.sub(*SPECS[1], word)) for word in line]
    for flag, most in AT_MOST.items():
        if f"--{flag}" in words:
            place = words.index(f"--{flag}") + 1
            if words[place].isdigit():  # the width of a figure may be a word
                words[place] = str(min(most, int(words[place])))
        elif flag in ALWAYS and flag in known:
            words += [f"--{flag}", str(most)]
    return words


def options(command: str) -> set[str]:
    """The names of a command's options, as its help lists them."""
    return set(re.findall(r"^  --(\w+)", call((command, "--help")).stdout, re.M))


def run_page(path: Path, folder: Path) -> None:
    """Run every command and every Python block of a page in a folder, in their order.

    A block with a title, of Python or TOML, is written to the file of that name instead.
    """
    names: dict[str, object] = {}
    for block in blocks(path.read_text()):
        if block.language == "sh":
            for line in expanded(block.text):
                if line[0] == "make":
                    assert re.search(rf"^{line[1]}:", (ROOT / "Makefile").read_text(), re.M), line
                    continue
                done = call(shortened(line, options(line[0])), folder)
                assert done.returncode == 0, f"{path.name}: {' '.join(line)}: {done.stderr}"
        elif block.language in ("python", "toml") and block.title:
            (folder / block.title).write_text(block.text)
        elif block.language == "python":
            with contextlib.chdir(folder):
                exec(compile(block.text, path.name, "exec"), names)
