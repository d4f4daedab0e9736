"""Bad values for every option of every command: one line, status 2, before anything is written."""

from __future__ import annotations

import importlib
import typing
from pathlib import Path

from tests.commands import CHAIN, ROOT, call, in_folder

#: values no option of that type takes, whatever it means
UNREADABLE = {
    int: ("abc", "1.5", "1e30", "nan", ""),
    float: ("abc", "nan", "inf", "1/0", ""),
    bool: ("maybe", "2", ""),
    str: ("",),
}
#: free text: any name of a file or a label is fine
FREE = {
    "model_name", "out_folder", "out_file", "label", "data_dir", "figure_folder",
}  # fmt: skip
#: options that may be negative
SIGNED = {"vec_scale"}


def base_lines() -> dict[str, str]:
    """The first line of every command in the chain."""
    lines = {"selfcheck": "selfcheck", "demo": "demo"}
    for line in CHAIN:
        lines.setdefault(line.split()[0], line)
    lines["plot"] += " --overwrite"  # or the figure that is there is what it stumbles over
    return lines


def test_the_chain_knows_every_command():
    """Sees a new command that is in no table of tests."""
    launched = {p.stem for p in (ROOT / "run").glob("*.py") if "launch(main" in p.read_text()}
    assert set(base_lines()) == launched


def with_value(line: str, name: str, value: str) -> str:
    """The command line with one option set to another value."""
    words = line.split(" ")
    flag = f"--{name}"
    if flag in words:
        place = words.index(flag)
        del words[place : place + 2]
    words = [w for w in words if w != f"--no{name}"]
    return " ".join([*words, f"{flag}={value}"])


def cases() -> list[tuple[str, str, str]]:
    """(command, option, command line) of every bad value."""
    launch = importlib.import_module("launch")
    found = []
    for command, line in base_lines().items():
        options = launch.options_of(importlib.import_module(command).main)
        for name, option in options.items():
            kind = option.kind
            if typing.get_origin(kind) is tuple:
                kind = typing.get_args(kind)[0]
            values = list(UNREADABLE[kind])
            if kind in (int, float) and name not in SIGNED:
                values.append("-7")
            if kind is str and name not in FREE:
                values.append("nonsense")
            found += [(command, name, with_value(line, name, value)) for value in values]
    return found


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()
    }


def test_every_option_of_every_command_refuses_what_it_cannot_mean(every_result):
    """Sees an option that takes a value of the wrong type, sign or vocabulary, or fails late."""
    failures = []
    with in_folder(every_result):
        table = cases()
        before = listing(every_result)
        for _, name, line in table:
            try:
                status, said, error = call(line)
            except Exception as problem:  # a traceback is what must not happen
                failures.append((line, f"{type(problem).__name__}: {problem}"))
                continue
            value = line.rpartition("=")[2]
            named = name in error or (value and value in error)
            one_line = error.count("\n") == 1 and not said
            if status != 2 or not one_line or not named or "another recipe" in error:
                failures.append((line, status, said[:200], error[:300]))
            after = listing(every_result)
            if after != before:
                failures.append((line, "wrote", sorted(after.keys() ^ before.keys())[:3]))
                before = after
    assert len(table) > 1000
    assert not failures, "\n".join(map(str, failures))


def test_only_the_command_that_shares_its_work_runs_under_torchrun(every_result, monkeypatch):
    """Sees a command that does the same work in every process and writes the same files."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with in_folder(every_result):
        for command, line in base_lines().items():
            if command == "calc_hessian":
                continue
            status, said, error = call(line)
            assert (status, said, error.count("\n")) == (2, "", 1), line
            assert "does not share its work" in error
        monkeypatch.setenv("RANK", "1")
        assert call(base_lines()["scan_param"]) == (2, "", "")  # one line for all processes


def test_file_names_may_hold_commas(tmp_path):
    """Sees a list of files cut at a comma that belongs to a name."""
    with in_folder(tmp_path):
        launch = importlib.import_module("launch")
        main = importlib.import_module("plot").main
        parsed = launch.arguments(main, ["--result", r"a\,b.nc,c.nc"])
    assert parsed["result"] == ("a,b.nc", "c.nc")
