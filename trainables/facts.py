"""What must be known about data and networks before a sweep can be planned, without importing torch to plan it.

The number of examples of a component, the digest of its content, the size of a network: all are found once per machine
in a process of their own (`python -m trainables.facts`), which decodes the data into the cache that trials will read,
and are remembered. After that, planning reads a few small files.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables import stall
from trainables.components import cache_root, known, prepare
from trainables.errors import UserError
from trainables.spec import Architecture, Component, Source, as_json

# What a failing child process prints before the message meant for the user.
_ERROR_PREFIX = "facts: "
_NOW_PREFIX = "facts of: "  # and what it is at, in case it ends without a word


@dataclass(frozen=True)
class NetworkSize:
    """Size of a network's features, the head left out."""

    parameters: int
    flops: int  # of one forward pass of one example
    num_features: int


class FactError(UserError):
    """What a sweep asks for is not to be had: data that is missing or damaged, a network that cannot be built."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name  # which of the sources or architectures


def components(sources: Mapping[str, Source], say: Callable[[str], None]) -> dict[str, Component]:
    """The components of named sources.

    Args:
        say: told, in a line, when data has to be prepared first.

    Raises:
        FactError: data is missing or damaged.
    """
    stall.limit_s()  # said before any work if it is no number
    found = {name: _known(name, source) for name, source in sources.items()}
    missing = [name for name, component in found.items() if component is None]
    if missing:
        say(f"preparing data of {', '.join(missing)} (once per machine)")
        _in_child({"sources": {name: as_json(sources[name]) for name in missing}})
        found |= {name: _known(name, sources[name]) for name in missing}
    return {name: component for name, component in found.items() if component is not None}


def network_sizes(architectures: Sequence[Architecture], say: Callable[[str], None]) -> dict[str, NetworkSize]:
    """The sizes of networks, by the digest of their architecture.

    Raises:
        FactError: there is no such network, or not for such images.
    """
    sizes = _known_sizes()
    missing = [a for a in architectures if a.digest not in sizes]
    if missing:
        say(f"measuring networks {', '.join(sorted({a.name for a in missing}))} (once per machine)")
        _in_child({"architectures": [(a.name, as_json(a)) for a in missing]})
        sizes = _known_sizes()
    return {a.digest: sizes[a.digest] for a in architectures}


@functools.cache
def network_size(architecture: Architecture) -> NetworkSize:
    """The size of a network; measured in this process, if this machine does not know it."""
    if architecture.digest not in _known_sizes():
        _measure(architecture)
    return _known_sizes()[architecture.digest]


def _known(name: str, source: Source) -> Component | None:
    try:
        return known(source)
    except ValueError as error:
        raise FactError(name, str(error)) from error


def _in_child(request: Mapping[str, Any]) -> None:
    import subprocess

    done = subprocess.run(
        # -P: what lies in the folder that the command was typed in is not imported
        [sys.executable, "-P", "-m", "trainables.facts"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        check=False,
    )
    if done.returncode == 0:
        return
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    if last.startswith(_ERROR_PREFIX):
        name, message = json.loads(last.removeprefix(_ERROR_PREFIX))
        raise FactError(name, message)
    if last.startswith(_NOW_PREFIX):
        name = last.removeprefix(_NOW_PREFIX)
        raise FactError(name, f"the process that looked at it ended without a word (exit code {done.returncode})")
    raise RuntimeError(f"looking at data and networks failed:\n{done.stderr}")


def main() -> int:
    """The child: reads a request from standard input, leaves what it finds in the cache."""
    request, limit = json.load(sys.stdin), stall.limit_s()
    searches: list[tuple[str, Callable[[], object]]] = []
    for name, source in request.get("sources", {}).items():
        searches.append((name, functools.partial(prepare, _source(source))))
    for name, architecture in request.get("architectures", ()):
        searches.append((name, functools.partial(_measure, _architecture(architecture))))
    for name, search in searches:
        print(_NOW_PREFIX + name, file=sys.stderr, flush=True)
        try:
            with stall.limited(limit, functools.partial(_say_hung, name, limit)):
                search()
        except ValueError as error:
            _say_failed(name, str(error))
            return 1
    return 0


def _say_hung(name: str, limit: float, where: str, stack: str) -> None:
    _say_failed(
        name, f"not there after {limit / 60:g} minutes; it hangs in {where}. {stall.VARIABLE} sets how long it may take"
    )


def _say_failed(name: str, message: str) -> None:
    print(_ERROR_PREFIX + json.dumps([name, " ".join(message.split())]), file=sys.stderr, flush=True)


def _measure(architecture: Architecture) -> None:
    from filelock import FileLock

    from trainables.architectures import measure

    found = as_json(measure(architecture))
    path = _sizes_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        sizes = {digest: as_json(size) for digest, size in _known_sizes().items()}
        part = path.with_suffix(".part")
        part.write_text(json.dumps({**sizes, architecture.digest: found}))
        part.replace(path)


def _known_sizes() -> dict[str, NetworkSize]:
    try:
        return {d: NetworkSize(**size) for d, size in json.loads(_sizes_path().read_text()).items()}
    except (OSError, ValueError, TypeError):
        return {}


def _sizes_path() -> Path:
    """Sizes belong to a version of torchvision: its networks may change."""
    from importlib import metadata

    return cache_root() / f"networks-torchvision-{metadata.version('torchvision')}.json"


def _source(value: Mapping[str, Any]) -> Source:
    return Source(**_tuples(value))


def _architecture(value: Mapping[str, Any]) -> Architecture:
    return Architecture(**_tuples(value))


def _tuples(value: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples that specs hold."""
    return {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}


if __name__ == "__main__":
    sys.exit(main())
