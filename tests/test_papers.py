"""docs/papers.md: no table or figure without commands, and every command is one of this version."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re

import pytest

from ridgeline.__main__ import commands
from ridgeline.models import check_model_type, is_external
from ridgeline.run.shared.budgets import attack_of
from ridgeline.run.shared.launch import arguments
from ridgeline.run.shared.options import Fresh, Training
from ridgeline.train.attacks import parse_attack
from ridgeline.train.data.datasets import check_dataset
from ridgeline.train.optimizers import parse_optimizer
from ridgeline.train.schedules import parse_rate, parse_schedule
from tests.commands import ROOT
from tests.documents import blocks as fenced
from tests.documents import expanded

TEXT = (ROOT / "docs/papers.md").read_text()
#: what the papers hold, as far as it is known: words that rows of their table begin with
NUMBERED = {
    "PAS": ["Table 1, MNIST", "Table 1, CIFAR-10", "Sharpness", "Loss landscape",
            "Scattered gradients", "Gradient norms", "Learning-rate", "Curves"],
    "APART": ["FGSM's collapse", "FGSM's perturbations", "Long runs", "Tables of robustness",
              "Cost"],
    "FFR": ["Figure 1", "Figure 2", "Teaser", "Tables of accuracy", "Tables of robustness",
            "Tables of corruptions", "Bias", "Ablation"],
    "CURE": [*(f"Table {n}" for n in range(1, 11)), "Figures 1 and 5a", "Figures 2 and 11",
             "Figures 3 and 12", "Figures 4 and 5c", "Figure 5b", "Figure 6a",
             "Figures 6b and 10", "Figures 7 and 9", "Figure 8"],
    "FOMO": ["Figure 1", "Tables 1 and 2", "Table 3", "Method figure", "Natural", "Real-world",
             "Ablation", "LURE, the README's command on CIFAR",
             "LURE, the README's command on Restricted"],
}  # fmt: skip


def rows() -> list[tuple[str, list[str]]]:
    """(paper, cells) of every row of every table."""
    found = []
    for part in re.split(r"^## ", TEXT, flags=re.M)[1:]:
        paper = part.split(":")[0]
        lines = [line for line in part.splitlines() if line.startswith("|")][2:]
        found += [(paper, [c.strip() for c in line.strip("|").split("|")]) for line in lines]
    return found


def blocks() -> dict[str, str]:
    """The shell commands under every heading of a row, by heading; "" are the names for all."""
    parts = re.split(r"^#{2,3} (.*)$", TEXT, flags=re.M)
    found = {"": "".join(block.text for block in fenced(parts[0]))}
    for heading, part in zip(parts[1::2], parts[2::2], strict=True):
        if shell := "".join(block.text for block in fenced(part)):
            found[heading] = shell
    return found


@functools.cache
def listed() -> dict[str, list[list[str]]]:
    """The command lines, as words, of every block, loops and names expanded by the shell."""
    names, *rest = blocks().items()
    script = names[1] + "".join(
        f"printf '\\035%s\\037\\036\\n' '{heading}'\n{shell}\n" for heading, shell in rest
    )
    found: dict[str, list[list[str]]] = {}
    for line in expanded(script):
        if line[0].startswith("\035"):
            found[line[0][1:]] = here = []
        else:
            here.append(line)
    return found


def test_every_table_and_figure_has_a_row_and_no_row_is_empty():
    table = rows()
    for paper, wanted in NUMBERED.items():
        names = [cells[0] for p, cells in table if p == paper]
        assert [w for w in wanted if not any(n.startswith(w) for n in names)] == []
        assert len(names) == len(set(names)) >= len(wanted)
    for paper, cells in table:
        assert len(cells) == 4 and all(cells), (paper, cells)
        assert re.fullmatch(r"under 0\.1|\d+(\.\d)?", cells[2]), cells


def test_every_row_leads_to_commands_of_its_own():
    anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-"): h for h in blocks() if h}
    links = [re.fullmatch(r"\[(.*)\]\(#(.*)\)", cells[3]).groups() for _, cells in rows()]
    assert [anchors.get(anchor) for _, anchor in links] == [text for text, _ in links]
    assert sorted(anchors.values()) == sorted(text for text, _ in links)
    assert {h for h, lines in listed().items() if lines} == set(anchors.values())


@pytest.mark.parametrize("heading", [h for h in blocks() if h])
def test_every_command_is_understood(heading):
    """Sees a flag, a value, a network, an attack or a schedule that this version does not know."""
    for command, *argv in listed()[heading]:
        assert command in commands(), command
        found = arguments(importlib.import_module(f"ridgeline.run.{command}").main, argv)
        options = {}
        for name, value in found.items():
            options |= vars(value) if dataclasses.is_dataclass(value) else {name: value}
        attack = attack_of(options["attack"]) if options.get("attack") else None
        if options.get("eval_attack"):
            parse_attack(options["eval_attack"], "--eval_attack")
        training, fresh = found.get("training"), found.get("fresh")
        if isinstance(training, Training):
            rate = parse_optimizer(training.optim).lr
            parse_rate(training.lr_schedule, rate, training.epoch_num)
        if isinstance(fresh, Fresh):
            check_dataset(fresh.dataset)
            shape = (1, 28, 28) if "mnist" in fresh.dataset else (3, 32, 32)
            assert not is_external(fresh.model_type)
            check_model_type(fresh.model_type, shape)
        if options.get("attack_threshold_schedule"):
            schedule = options["attack_threshold_schedule"]
            budget = parse_schedule(schedule, "schedule", budget=True, beside=attack.unit)
            assert budget(training.epoch_num) == pytest.approx(attack.eps)


def test_every_file_that_is_read_was_written_before():
    """Sees a name that no earlier command writes."""
    written: set[str] = set()
    for heading, lines in listed().items():
        for command, *argv in lines:
            flags = {word: argv[n + 1] for n, word in enumerate(argv[:-1]) if word.startswith("--")}
            for flag, text in flags.items():
                if flag in ("--out_file", "--out_folder", "--model_name", "--data_dir"):
                    continue
                for name in filter(None, text.removeprefix("between:").split(",")):
                    if name.endswith((".ckpt", ".nc", ".jsonl")):
                        stem = re.sub(r"\.(ckpt|nc|jsonl)$", "", name)
                        kept = any(stem == w or stem.startswith(f"{w}_") for w in written)
                        assert kept, f"{heading}: {command} {flag} {name}"
            written |= outputs(command, flags)


def outputs(command: str, flags: dict[str, str]) -> set[str]:
    """Stems of the files that a command line writes; of training runs the name of the run."""
    if "--out_file" in flags:
        return {re.sub(r"\.nc$", "", flags["--out_file"])}
    folder = flags.get("--out_folder") or flags.get("--save_dir")
    name = flags.get("--model_name") or flags.get("--run")
    first = flags.get("--model2load", "").split(",")[0].removesuffix(".ckpt")
    folder = folder or first.rpartition("/")[0]
    return {f"{folder}/{name}"} if name else {first} if first else set()
