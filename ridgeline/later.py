"""Load libraries of a command when they are first used, so that --help is fast."""

from __future__ import annotations

import importlib
import sys
import threading
import types
from importlib.util import find_spec
from typing import Any

#: reentrant, because a library may use itself while it is loaded
_LOCK = threading.RLock()


class _Later(types.ModuleType):
    """Replaces a library in `sys.modules` until one of its names is used.

    `importlib.util.LazyLoader` cannot be used: it loads the library at its next `import`.
    """

    _real: types.ModuleType | None = None

    def __getattr__(self, name: str) -> Any:
        with _LOCK:
            if self._real is None:
                if sys.modules.get(self.__name__) is self:
                    del sys.modules[self.__name__]
                self._real = importlib.import_module(self.__name__)
        return getattr(self._real, name)


def load_when_used(name: str) -> None:
    """From now on `import name` loads nothing until a name of the library is used.

    Has no effect if the library is loaded already or not installed. Only for commands: the modules
    of a notebook's process are not changed.
    """
    spec = None if name in sys.modules else find_spec(name)
    if spec is not None:
        stand_in = _Later(name, f"{name}, not loaded yet.")
        stand_in.__spec__, stand_in.__file__ = spec, spec.origin
        sys.modules[name] = stand_in
