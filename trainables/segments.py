"""How is a line added where a file can only be written whole? Objects that each hold a run of lines.

    <name>/<number of its first line>.<level>      a segment of level n holds 16 ** n lines, the last one fewer

A line is added by writing the last segment, of level 1, once more. Sixteen full segments of one level are then written
as one of the next level, and removed. So a line is written at most 16 times and once per level above the first, and n
lines lie in at most about 16 log16(n) objects. A segment whose lines lie in one of a higher level is what a kill has
left between writing and removing: readers pass it over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

FANOUT = 16


class Writer:
    """Where the next line goes. One process writes a name, once in its life."""

    def __init__(self) -> None:
        self._count = 0
        self._tail: list[bytes] = []

    def add(self, line: bytes) -> tuple[str, bytes]:
        """The segment to be written for a line, and its content."""
        if len(self._tail) == FANOUT:
            self._tail = []
        self._tail.append(line)
        self._count += 1
        return _name(self._count - len(self._tail), 1), b"".join(self._tail)

    def merges(self) -> Iterator[tuple[str, list[str]]]:
        """The segments to be written of smaller ones now, and these; lower levels first."""
        level = 1
        while self._count % (lines := FANOUT ** (level + 1)) == 0:
            first = self._count - lines
            yield _name(first, level + 1), [_name(n, level) for n in range(first, self._count, FANOUT**level)]
            level += 1


def readable(names: Iterable[str]) -> list[str]:
    """The segments that hold every line once, in order."""
    end = 0
    chosen = []
    for first, negative_level, name in sorted((*_key(name), name) for name in names):
        if first >= end:
            chosen.append(name)
            end = first + FANOUT**-negative_level
    return chosen


def _name(first: int, level: int) -> str:
    return f"{first:09d}.{level}"


def _key(name: str) -> tuple[int, int]:
    first, _, level = name.partition(".")
    return int(first), -int(level)
