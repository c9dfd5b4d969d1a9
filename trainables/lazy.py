"""Which library is imported only when something of it is first used?

A sweep is checked and planned in the time that importing numpy takes, and by modules that mostly use numpy.
"""

from __future__ import annotations

import importlib
from typing import Any


class Module:
    """Stands for a module, which is imported when an attribute of it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, value)  # the next time it is found at once
        return value
