"""Which code of the user's does a name stand for? Plug-ins by import path, or by the entry points of what is installed.

A dataset, an architecture, an ordering and a representation may each be code of an installed package, named in a sweep
file as `python:module:attribute`, or by the plain name that the package gives it:

    [project.entry-points."bottleneck.orderings"]
    late_bloomers = "my_package.orderings:late_bloomers"

A plain name becomes its import path before anything is named by a digest, so both ways to write it are the same stages.
Installed packages are looked through only when a name is met that is not one of ours: that takes 30 ms. Nothing is
imported here but what `load` is asked for.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import sys
import traceback
from collections.abc import Collection
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trainables.errors import UserError

PREFIX = "python:"
GROUPS = {
    "dataset": "bottleneck.datasets",
    "architecture": "bottleneck.architectures",
    "ordering": "bottleneck.orderings",
    "representation": "bottleneck.representations",
}  # entry points by kind


class PluginError(UserError):
    """A plug-in is not there, or not what it has to be; the message says so in one line."""


def is_code(name: str) -> bool:
    """Whether a name is an import path."""
    return name.startswith(PREFIX)


def parts(kind: str, name: str) -> tuple[str, str]:
    """The module and the attribute of `python:module:attribute`. Raises PluginError for what is none, and for Python's
    own modules."""
    found = name.split(":")
    if len(found) != 3 or not all(part.isidentifier() for part in found[1].split(".")) or not found[2]:
        raise PluginError(f"{kind} {name!r} names no code; write python:module:attribute")
    if found[1].partition(".")[0] in sys.stdlib_module_names:  # such as subprocess:run, with options of a stranger
        raise PluginError(f"{kind} {name!r} names Python's own {found[1]!r}; code of an installed package is possible")
    return found[1], found[2]


def resolve(kind: str, name: str, known: Collection[str]) -> str:
    """The import path that a plain name of an installed package stands for; any other name as it is.

    Args:
        kind: a key of GROUPS.
        name: as a sweep file has it.
        known: our own names, for which nothing is looked up.

    Raises:
        PluginError: two packages have the name, or one has a name of ours.
    """
    if name in known or is_code(name):
        return name
    return installed(kind, frozenset(known)).get(name, name)


@functools.cache
def installed(kind: str, known: frozenset[str]) -> dict[str, str]:
    """The names that installed packages give to plug-ins of a kind, and their import paths. Raises PluginError."""
    from importlib import metadata

    owners: dict[str, str] = {}
    found: dict[str, str] = {}
    for entry in metadata.entry_points(group=GROUPS[kind]):
        owner = entry.dist.name if entry.dist else "an unknown package"
        other = "transfer-bottleneck" if entry.name in known else owners.get(entry.name)
        if other is not None and (entry.name in known or found[entry.name] != f"{PREFIX}{entry.value}"):
            raise PluginError(
                f"{kind} {entry.name!r} is a name of {other} and of {owner} (entry point {entry.value}); rename it in "
                f"{owner}, or uninstall one of the two"
            )
        owners[entry.name], found[entry.name] = owner, f"{PREFIX}{entry.value}"
    return dict(sorted(found.items()))


def load(kind: str, name: str) -> Any:
    """What an import path leads to. Raises PluginError."""
    module, attribute = parts(kind, name)
    try:
        return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    except (Exception, SystemExit) as error:  # the code is not ours and may raise anything
        raise PluginError(f"{name}: {said(error)}") from error


def said(error: BaseException) -> str:
    """What code of the user's raised, and where, on one line."""
    lines = str(error).strip().splitlines()
    place = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(place.filename).parent == Path(__file__).parent
    where = "" if ours or place.filename.startswith("<") else f" ({place.filename}:{place.lineno})"
    return f"{type(error).__name__}{f': {lines[0]}' if lines else ''}{where}"


@functools.cache
def code(kind: str, name: str) -> str:
    """Digest of the file that an import path's module lies in: what tells whether the plug-in is still the same.

    What that module imports in turn is not followed. The module is not imported. Raises PluginError if it is not there.
    """
    module, _ = parts(kind, name)
    spec = module_spec(module)
    if spec is None:
        raise PluginError(f"{name}: there is no module {module!r}; install it or add it to PYTHONPATH")
    path = Path(spec.origin or "")
    return (
        hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else hashlib.sha256(name.encode()).hexdigest()
    )


def require_same_code(kind: str, name: str, planned: str) -> None:
    """Raises PluginError if the plug-in on this machine is not the one that a spec was planned with."""
    if code(kind, name) != planned:
        raise PluginError(
            f"the code of {name} on this machine is not what was planned with ({code(kind, name)[:12]} and not "
            f"{planned[:12]}); install the same version here, or plan again"
        )


def module_spec(module: str) -> ModuleSpec | None:
    """Where a module would be imported from. Packages are executed only if it is found in no other way."""
    importlib.invalidate_caches()
    path, spec, name = None, None, ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, path)
        if spec is None:
            break
        path = spec.submodule_search_locations
    if spec is None:  # an editable installation may bring a finder of its own
        try:
            spec = find_spec(module)
        except (ImportError, ValueError):
            return None
    return spec
