"""From a command line to a call. Fire parses it, the signature gives types, errors are one line.

Fire alone guesses types, calls the function before it rejects a mistyped flag, and shows its help
in a pager. Here flags are checked first, and every value is converted to the type in the command's
signature. Then the command runs. A parameter whose type is a dataclass is a group of options, one
per field.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import inspect
import io
import logging
import os
import re
import sys
import time
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import fire
from fire.decorators import SetParseFn

from ridgeline import readers_may_leave
from ridgeline.models.errors import InputError, is_out_of_memory, reason_of, unknown
from ridgeline.run.shared.aliases import help_lines, translated
from ridgeline.train.exchange import Parted, leader
from ridgeline.train.files.locks import holding, release_all
from ridgeline.train.files.recipe import called
from ridgeline.train.options import Opt, described_by
from ridgeline.train.specs import convert
from ridgeline.train.stopping import Stopped, stoppable

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
#: seconds that other processes of torchrun wait before they print the first one's error
_GRACE = 5.0
REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """One flag: its type, whether None is allowed, its meaning, default, and its group."""

    kind: Any
    optional: bool
    about: Opt
    default: Any
    group: str | None

    @property
    def type_name(self) -> str:
        """The type as --help prints it."""
        if typing.get_origin(self.kind) is tuple:
            return f"{typing.get_args(self.kind)[0].__name__},..."
        return self.kind.__name__


@readers_may_leave()
def launch(main: Callable[..., None], argv: Sequence[str] | None = None) -> None:
    """Run `main` with the command line. Wrong input: exit status 2 and one line on stderr.

    A command whose module has `SHARED = True` divides its work among the processes of torchrun.
    Other commands refuse more than one process: all would write the same files.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    command = os.path.basename(sys.argv[0])
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    if {"--help", "-h"} & set(argv):
        print(help_text(main, command))
        return
    keep_freed_pages()
    os.environ.setdefault("MPLBACKEND", "Agg")  # figures are files; no display is needed
    try:
        if not main.__globals__.get("SHARED", False):
            _check_alone(command)
        values, known = given(main, argv), options_of(main)
        changed = {k: v for k, v in values.items() if v != known[k].default}
        with called(_name(main), changed, os.getcwd()), _first_speaks(), stoppable():
            main(**bound(main, values))
    except BrokenPipeError:  # the reader of the output has closed it
        raise
    except (InputError, OSError) as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            error = f"{error}; what is finished is kept: free some space and run it again"
        if not leader():
            time.sleep(_GRACE)  # the first process prints the same error; torchrun ends this one
        print(f"{command}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except Parted as error:
        print(f"{command}: {error}", file=sys.stderr)
        sys.exit(1)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"{command}: out of memory ({reason_of(error)[:200]}); what is finished is kept: "
              "fewer examples or networks at a time need less", file=sys.stderr)  # fmt: skip
        sys.exit(2)
    except (KeyboardInterrupt, Stopped) as stop:
        # a process with a locked output keeps its finished parts
        hint = "; run the same command again to continue" if holding() else ""
        how, status = ("stopped", 143) if isinstance(stop, Stopped) else ("interrupted", 130)
        if leader():  # torchrun passes the signal on to all
            print(f"{command}: {how}{hint}", file=sys.stderr)
        sys.exit(status)
    finally:
        release_all()
        if os.environ.get("WORLD_SIZE", "1") != "1":
            from ridgeline.landscape.distributed import leave

            leave()


def _name(main: Callable[..., None]) -> str:
    """The name of the command."""
    return Path(main.__code__.co_filename).stem


def _check_alone(command: str) -> None:
    """Raise InputError under torchrun with several processes."""
    world = os.environ.get("WORLD_SIZE", "1")
    if world.isdigit() and int(world) > 1:
        raise InputError(
            f"{command} does not share its work between processes; start it without torchrun "
            "(test_ensemble, calc_hessian, scan_param, scan_curve and most of train_* share theirs)"
        )


@contextlib.contextmanager
def _first_speaks() -> Iterator[None]:
    """Print only from the first process of torchrun."""
    if leader():
        yield
        return
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        yield


def keep_freed_pages() -> None:
    """Keep freed memory in this process (with glibc only).

    Otherwise activations of some MiB are requested from the system and returned for every layer.
    That takes a third of the time of a forward pass of a ResNet18 (BENCHMARKS.md).
    """
    trim, top_pad, mmap = -1, -2, -3  # M_* of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        tune = ctypes.CDLL("libc.so.6").mallopt
        for option, value in ((mmap, 2**25), (trim, 2**31 - 1), (top_pad, 2**26)):
            tune(option, value)


def arguments(main: Callable[..., None], argv: Sequence[str]) -> dict[str, Any]:
    """The typed keyword arguments of `main` for a command line. Raises InputError."""
    return bound(main, given(main, argv))


def given(main: Callable[..., None], argv: Sequence[str]) -> dict[str, Any]:
    """The options in a command line, each in its type. Raises InputError."""
    options = options_of(main)
    argv = translated(_name(main), argv, {name: o.default for name, o in options.items()})
    _check_flags(options, argv)
    texts: dict[str, str] = {}

    def capture(**values: str) -> None:
        texts.update(values)

    capture.__signature__ = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in options]
    )
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            fire.Fire(SetParseFn(str)(capture), command=list(argv), name="command")
    except SystemExit:
        reason = next((x for x in said.getvalue().splitlines() if x.startswith("ERROR")), "")
        raise InputError(
            f"{reason.removeprefix('ERROR: ') or 'cannot read the command line'}; "
            "options are written --name value, see --help"
        ) from None
    _check_required(options, texts)
    return {name: _typed(text, options[name], name) for name, text in texts.items()}


def bound(main: Callable[..., None], values: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `main` for named options; the others have their defaults.

    Raises InputError for a value that is not allowed, and for a missing required option.
    """
    options = options_of(main)
    _check_required(options, values)
    keywords: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {o.group: {} for o in options.values() if o.group}
    for name, option in options.items():
        value = values.get(name, option.default)
        if not option.group:
            option.about.check(name, value)
        (groups[option.group] if option.group else keywords)[name] = value
    hints = typing.get_type_hints(main)
    return keywords | {group: hints[group](**values) for group, values in groups.items()}


def _check_required(options: Mapping[str, Option], named: Collection[str]) -> None:
    missing = [k for k, o in options.items() if o.default is REQUIRED and k not in named]
    if missing:
        raise InputError(f"required: {', '.join('--' + k for k in missing)}; see --help")


def options_of(main: Callable[..., None]) -> dict[str, Option]:
    """Every option of a command in the order of its signature. Groups give one per field."""
    hints = typing.get_type_hints(main, include_extras=True)
    options: dict[str, Option] = {}
    for name, parameter in inspect.signature(main).parameters.items():
        hint = hints[name]
        if not dataclasses.is_dataclass(hint):
            options[name] = _option(hint, parameter.default, None)
            continue
        fields = typing.get_type_hints(hint, include_extras=True)
        for field in dataclasses.fields(hint):
            default = REQUIRED if field.default is dataclasses.MISSING else field.default
            if parameter.default is not REQUIRED:
                default = getattr(parameter.default, field.name)
            options[field.name] = _option(fields[field.name], default, name)
    return options


def _option(hint: Any, default: Any, group: str | None) -> Option:
    about = described_by(hint) or Opt("")
    if typing.get_origin(hint) is Annotated:
        hint, first, *_ = typing.get_args(hint)
        about = Opt(first) if isinstance(first, str) else about
    optional = typing.get_origin(hint) in (types.UnionType, typing.Union)
    if optional:
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    return Option(hint, optional, about, default, group)


def _check_flags(options: dict[str, Option], argv: Sequence[str]) -> None:
    """Refuse unknown, repeated and valueless flags before Fire sees them."""
    seen = set()
    for place, token in enumerate(argv):
        if not token.startswith("--") or token == "--":
            if (token.startswith("-") and token[1:2].isalpha()) or token in ("-", "--"):
                raise InputError(f"unknown option {token!r}; options are written --name value")
            continue
        flag, equals, _ = token[2:].partition("=")
        name = flag.replace("-", "_")
        if name not in options and name.startswith("no") and name[2:] in options:
            name = name[2:]
        if name not in options:
            raise unknown("option", f"--{flag}", [f"--{k}" for k in options])
        if name in seen:
            raise InputError(f"option --{flag} is given twice")
        seen.add(name)
        last = place + 1 == len(argv) or argv[place + 1].startswith("--")
        if last and not equals and options[name].kind is not bool:
            raise InputError(f"option --{flag} needs a value ({options[name].type_name})")


def _typed(text: str, option: Option, name: str) -> Any:
    if text == "None" and option.optional:
        return None
    if not text.strip():
        raise InputError(f"option --{name} needs a value ({option.type_name}), got an empty one")
    if typing.get_origin(option.kind) is tuple:
        element = typing.get_args(option.kind)[0]
        if element is str:  # empty entries are kept (a,,b); \, is a comma inside a name
            return tuple(part.replace("\\,", ",") for part in re.split(r"(?<!\\),", text))
        parts = text.strip("()[] ").split(",")
        return tuple(convert(part.strip(), element, f"--{name}") for part in parts if part.strip())
    return convert(text, option.kind, f"--{name}")


def help_text(main: Callable[..., None], command: str) -> str:
    """Every option with its type, default and help line, from the signature."""
    how = command if command.startswith("ridgeline ") else f"python run/{command}"
    lines = [f"{how} [--option value ...]", "", inspect.getdoc(main) or "", ""]
    options = options_of(main)
    width = max(len(k) for k in options) + 2
    for name, option in options.items():
        default = option.default
        if default is REQUIRED:
            default = "required"
        elif isinstance(default, tuple):
            default = ",".join(map(str, default)) or "none"
        note = f"{option.about.note} [default: {default}]"
        lines.append(f"  --{name:<{width}}{option.type_name + ' ':<9}{note}")
    return "\n".join(lines + help_lines(_name(main)))
