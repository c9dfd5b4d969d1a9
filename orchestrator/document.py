"""What does the text of a sweep file say, and on which line? YAML as a tree of values that know their place.

Nothing in a file can name a Python object, and one that would unfold into something huge is refused before it
does. Scalars are those of YAML 1.2: `1e-3` is a number, `no` a word. `--set` is applied to the tree, so an
error about such a value names the override instead of a line. Which keys and values are possible is for
`sweep.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from orchestrator.model import Loc, show
from trainables.errors import UserError

MAX_VALUES = 100_000  # of one sweep file, counted again where an alias repeats them
MAX_DEPTH = 32  # of lists and mappings inside each other

_KEY = re.compile(r"[^.\[\]]+")
_PATH = re.compile(r"[^.\[\]]+(\.[^.\[\]]+|\[[0-9]+\])*")  # pretrain.steps, vary.mixture[0].digits
# What YAML does not allow in a text: control characters, surrogates, and what is no character at all.
_FORBIDDEN = yaml.reader.Reader.NON_PRINTABLE
_INTEGER = re.compile(r"[-+]?[0-9][0-9_]*")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


class SweepError(UserError):
    """What is wrong with a sweep, as one line."""

    def __init__(self, message: str) -> None:
        # A message quotes the file, and a terminal obeys some characters.
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message))


@dataclass(frozen=True, slots=True)
class Node:
    """A value of a sweep file, and where it stands."""

    value: Any  # a scalar, a tuple of nodes, or a dict of them
    origin: str  # a file or an override
    line: int  # 0: of an override; that of the key where there is one
    size: int = 1  # values in it, itself included

    @property
    def where(self) -> str:
        return f"{self.origin}:{self.line}" if self.line else self.origin

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, tuple) else self.value


def tree(text: str, where: str, overrides: Sequence[str]) -> Node:
    """The tree of a text with overrides applied. Raises SweepError."""
    root = _Composer(text, where).document()
    for override in overrides:
        root = _overridden(root, override)
    return root


def at(root: Node, loc: Loc) -> tuple[Node, str]:
    """The node at a place, or the nearest one around it, and the path to it."""
    node, path = root, ""
    for key in loc:
        if isinstance(node.value, dict) and key in node.value:
            node = node.value[key]
            path += f"{'.' if path else ''}{key}"
        elif isinstance(node.value, tuple) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            path += f"[{key}]"
    return node, path


def keys(path: str) -> Loc:
    """The place that a path such as `vary.mixture[0].digits` leads to."""
    return tuple(int(key) if key.isdigit() else key for key in _KEY.findall(path))


def dump(value: Any) -> str:
    """A plain value as YAML that reads as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


# Overrides ------------------------------------------------------------------------------------------------------------


def _overridden(root: Node, override: str) -> Node:
    """The tree with one `key.path=value` applied."""
    origin = f"--set {override}"
    path, equals, text = override.partition("=")
    if not equals or not _PATH.fullmatch(path):
        raise SweepError(f"{origin}: found no key.path=value; pretrain.steps=100 is an example")
    value = _Composer(text, origin, override=True).document()
    return _with(root, _KEY.findall(path), replace(value, origin=origin, line=0))


def _with(node: Node, keys: Sequence[str], value: Node) -> Node:
    """The node with another value at `keys`; mappings on the way there are made where there are none."""
    if not keys:
        return value
    key, *rest = keys
    empty = Node({}, value.origin, 0)
    if isinstance(node.value, dict) or node.value is None:
        entries = node.value or {}
        return replace(node, value={**entries, key: _with(entries.get(key, empty), rest, value)})
    if isinstance(node.value, tuple) and key.isdigit() and int(key) < len(node.value):
        items = list(node.value)
        items[int(key)] = _with(items[int(key)], rest, value)
        return replace(node, value=tuple(items))
    raise SweepError(f"{value.origin}: found {show(node.plain())} where {key!r} is to be set; it has no such key")


# Scalars --------------------------------------------------------------------------------------------------------------


def _scalar(text: str) -> Any:
    """What an unquoted word stands for."""
    if text in _SPECIAL:
        return _SPECIAL[text]
    if _INTEGER.fullmatch(text):
        return int(text.replace("_", "")) if len(text) <= 300 else text  # Python refuses to convert thousands
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    return text


class _Dumper(yaml.SafeDumper):
    """Writes words so that `_scalar` reads them as words."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _written(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # Quoted: what would read back as a number, and the line breaks of Unicode, which YAML folds.
    plain = isinstance(_scalar(text), str) and not set(text) & set("\x85\u2028\u2029")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _written)


# YAML to tree ---------------------------------------------------------------------------------------------------------


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None, "the parser marks every event"
    return event.start_mark.line + 1


class _Composer:
    """Builds the tree of one YAML document out of the parser's events, which hold no objects and do not recurse."""

    def __init__(self, text: str, origin: str, *, override: bool = False) -> None:
        self.text, self.origin, self.override = text, origin, override
        self.anchors: dict[str, Node | None] = {}  # None: still being read
        self.count = 0
        forbidden = _FORBIDDEN.search(text)
        if forbidden:
            line = text.count("\n", 0, forbidden.start()) + 1
            raise self.error(line, f"found the character {forbidden[0]!r}; YAML does not allow it")
        self.events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))

    def document(self) -> Node:
        """The tree. Raises SweepError."""
        try:
            next(self.events)  # the start of the stream
            event = next(self.events)
            if isinstance(event, yaml.StreamEndEvent):
                return Node(None, self.origin, self.line(1))
            node = self.node(next(self.events), 0)
            next(self.events)  # the end of the document
            event = next(self.events)
        except yaml.MarkedYAMLError as error:
            raise self.syntax_error(error) from None
        if not isinstance(event, yaml.StreamEndEvent):
            raise self.error(_line(event), "found a second document; a file holds one sweep")
        return node

    def node(self, event: Any, depth: int) -> Node:
        line = _line(event)
        if isinstance(event, yaml.AliasEvent):
            return self.aliased(event.anchor or "", line)
        if event.tag is not None:
            raise self.error(line, f"found the tag {show(event.tag)}; tags are not possible in a sweep file")
        if depth > MAX_DEPTH:
            raise self.error(line, f"found more than {MAX_DEPTH} lists and mappings inside each other")
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        before = self.count
        self.count_up(1, line)
        if isinstance(event, yaml.MappingStartEvent):
            value: Any = self.mapping(depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = tuple(self.items(depth))
        else:
            value = _scalar(event.value) if event.implicit[0] else event.value
        node = Node(value, self.origin, self.line(line), self.count - before)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def mapping(self, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            line = _line(event)
            if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
                raise self.error(line, "found a key that is no plain word; keys are names")
            key = event.value
            if key in entries:
                found = f"found the key {show(key)} a second time; the first is on line {entries[key].line}"
                raise self.error(line, found)
            entries[key] = replace(self.node(next(self.events), depth + 1), line=self.line(line))
        return entries

    def items(self, depth: int) -> Iterator[Node]:
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            yield self.node(event, depth + 1)

    def aliased(self, anchor: str, line: int) -> Node:
        if anchor not in self.anchors:
            raise self.error(line, f"found *{anchor}, which stands for nothing; write &{anchor} before it")
        node = self.anchors[anchor]
        if node is None:
            raise self.error(line, f"found *{anchor} inside of what it stands for; that has no end")
        self.count_up(node.size, line)
        return replace(node, line=self.line(line))

    def count_up(self, size: int, line: int) -> None:
        self.count += size
        if self.count > MAX_VALUES:
            raise self.error(line, f"found more than {MAX_VALUES} values, aliases written out; a sweep file is shorter")

    def line(self, line: int) -> int:
        return 0 if self.override else line

    def error(self, line: int, message: str) -> SweepError:
        return SweepError(f"{self.origin if self.override else f'{self.origin}:{line}'}: {message}")

    def syntax_error(self, error: yaml.MarkedYAMLError) -> SweepError:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = error.problem or "something else"
        if error.context:
            begun = error.context_mark.line + 1 if error.context_mark else line
            problem += f" {error.context}" + (f" begun on line {begun}" if begun != line else "")
        written = self.text.splitlines()[line - 1 : line]
        tabs = "; indent with spaces, not with tabs" if written and re.match(r"\s*\t", written[0]) else ""
        return self.error(line, f"found text that is not YAML: {problem}{tabs}")
