"""The exception for wrong input. Its message says how to correct it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: what torch's allocators and oneDNN say when an allocation fails
_NO_MEMORY = ("can't allocate memory", "not enough memory", "could not allocate", "out of memory")


class InputError(ValueError):
    """A value from the user is wrong. The message names the value and what is allowed."""


def unknown(kind: str, value: object, allowed: Iterable[str]) -> InputError:
    """The error for an unknown name. It suggests the most similar name, then lists all allowed."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return InputError(f"unknown {kind} {str(value)!r}{hint}; allowed: {', '.join(names)}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed. The host's allocator of torch says so in words alone."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = str(error)
    return isinstance(error, RuntimeError) and any(w in words for w in _NO_MEMORY)


def reason_of(error: BaseException) -> str:
    """Type and first line of an exception."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
