"""Libraries that a command loads only when something of them is used: --help answers sooner."""

from __future__ import annotations

import importlib
import sys
import threading
import types
from importlib.util import find_spec
from typing import Any

#: reentrant: a library may ask for itself while it is loaded
_LOCK = threading.RLock()


class _Later(types.ModuleType):
    """Stands for a library in `sys.modules` until the first of its names is asked for.

    Not `importlib.util.LazyLoader`: there the next `import` of the library loads it.
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
    """Let `import name` cost nothing from now on, until a name of it is used.

    Does nothing if the library is loaded already, or is not there. Only for commands: the modules
    of a notebook's process are not touched.
    """
    spec = None if name in sys.modules else find_spec(name)
    if spec is not None:
        stand_in = _Later(name, f"{name}, not loaded yet.")
        stand_in.__spec__, stand_in.__file__ = spec, spec.origin
        sys.modules[name] = stand_in
