"""`ridgeline COMMAND --options`, the same as `python run/COMMAND.py --options`."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

from ridgeline import prepare_command, readers_may_leave, run

_FOLDER = Path(run.__file__).parent


def commands() -> dict[str, Path]:
    """Every command and its file."""
    return {p.stem: p for p in sorted(_FOLDER.glob("*.py")) if p.stem != "__init__"}


def description(path: Path) -> str:
    """The first line of a command's docstring, read without importing it."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


@readers_may_leave()
def main() -> None:
    """Run the command named first on the command line; list all without one."""
    known = commands()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h"):
        width = max(map(len, known)) + 2
        print("ridgeline COMMAND [--option value ...]; ridgeline COMMAND --help\n")
        for command, path in known.items():
            print(f"  {command:<{width}}{description(path)}")
        return
    if name not in known:
        close = "; ridgeline --help lists them"
        print(
            f"ridgeline: unknown command {name!r}, allowed: {', '.join(known)}{close}",
            file=sys.stderr,
        )
        sys.exit(2)
    prepare_command()
    sys.argv = [f"ridgeline {name}", *sys.argv[2:]]
    launch = importlib.import_module("ridgeline.run.shared.launch").launch
    launch(importlib.import_module(f"ridgeline.run.{name}").main)


if __name__ == "__main__":
    main()
