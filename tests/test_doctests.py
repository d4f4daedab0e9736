"""The examples in docstrings say what the code does."""

from __future__ import annotations

import doctest
import importlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

import ridgeline

ROOT = Path(__file__).resolve().parent.parent
#: names that examples use without importing them
ASSUMED = {"torch": torch, "nn": torch.nn, "np": np, "tempfile": tempfile}
ROOMS = ("models", "train", "landscape", "analysis")
WITH_EXAMPLES = sorted(
    "ridgeline." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for room in ROOMS
    for path in (ROOT / room).rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module(name):
    torch.manual_seed(0)
    found = doctest.testmod(importlib.import_module(name), extraglobs=ASSUMED)
    assert found.attempted > 0
    assert found.failed == 0


def test_examples_are_found():
    assert len(WITH_EXAMPLES) >= 40


#: public names without an example: an exception, and figures
NO_EXAMPLE = {"InputError", "draw", "save_figure"}


def test_every_public_function_with_a_closed_form_has_an_example():
    without = {
        name for name in ridgeline.PUBLIC if ">>> " not in (getattr(ridgeline, name).__doc__ or "")
    }
    assert without == NO_EXAMPLE
