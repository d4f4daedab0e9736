"""The one exception for input a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A value from the user is wrong; the message names it and what is allowed."""


def unknown(kind: str, value: object, allowed: Iterable[str]) -> InputError:
    """The error for a name outside a fixed set, with the nearest allowed name offered first."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return InputError(f"unknown {kind} {str(value)!r}{hint}; allowed: {', '.join(names)}")
