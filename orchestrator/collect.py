"""What of a store can go? `bottleneck gc`: forgotten sweeps, stages that no sweep needs, and what faults have left.

What a kept sweep needs stays: every stage of its plan with all its files, its networks too, for a network that nothing
asks for today is what a new measurement of the same sweep begins with. So a sweep is forgotten by its name alone;
age and size choose among the stages that no plan names.

It holds a claim of the whole store while it looks and removes. A driver writes its plan before it asks what the store
has, and then waits for that claim to be free: either its plan is seen here, or it sees what is left.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from orchestrator.journal import GC_CLAIM, Journal, UnknownSweep
from trainables.errors import UserError
from trainables.store import File, Store

LEFTOVER_S = 3600.0  # a stage without a result that was touched so lately may be about to get one


class CannotCollect(UserError):
    """Something that is kept, or in use, stands in the way; the message says what."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something that goes as a whole."""

    what: str  # for people: a kind of stage, "saved states", ...
    name: str  # a stage's or state's digest, a sweep, a file, a claim
    files: tuple[str, ...]
    bytes: int
    used: float  # seconds since 1970


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is to be removed, and what stays."""

    items: tuple[Item, ...]
    kept_bytes: int  # of the whole store, afterwards
    too_much: int  # bytes by which a size that was asked for cannot be reached

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.items)

    def by_what(self) -> dict[str, tuple[int, int]]:
        """Number and bytes of the items of each kind."""
        found: dict[str, tuple[int, int]] = {}
        for item in self.items:
            number, size = found.get(item.what, (0, 0))
            found[item.what] = (number + 1, size + item.bytes)
        return found


def choose(
    store: Store,
    *,
    now: float,
    sweeps: Collection[str] = (),
    older_than_s: float | None = None,
    keep_bytes: int | None = None,
) -> Choice:
    """What goes: what faults have left in any case, and of what no kept sweep needs that which is asked for.

    Args:
        now: seconds since 1970.
        sweeps: to be forgotten, with the stages that only they need.
        older_than_s: stages not used for so long. A stage was used when it was written and, in a folder whose file
            system notes that, when it was last read.
        keep_bytes: remove the stages used longest ago until the store is no larger.

    Raises:
        UnknownSweep: there is no such sweep.
        CannotCollect: a sweep that is to be forgotten is being run, or the plan of one that is kept cannot be read.
    """
    there = store.names("sweeps")
    for sweep in sweeps:
        if sweep not in there:
            raise UnknownSweep(f"storage {store.shown!r} has no sweep {sweep!r}; it has: {', '.join(there) or 'none'}")
        if Journal(store, sweep).is_running():
            raise CannotCollect(f"sweep {sweep!r} is being run; stop it, or leave it out")
    needed = {digest for sweep in there if sweep not in sweeps for digest in _needed(store, sweep)}
    forgotten = {digest for sweep in sweeps for digest in _needed(store, sweep, missing_ok=True)}
    files = store.files("")
    claims = store.claims()
    held = {name for name in claims if store.is_claimed(name)}
    rests, whole = _entries(files)
    states = [_item("saved states", _stem(file.name), [file]) for file in files if file.name.startswith("state/")]
    done = [state for state in states if state.name in whole and state.name not in held]
    chosen = [
        *(_item("sweeps", sweep, [f for f in files if f.name.startswith(f"sweeps/{sweep}/")]) for sweep in sweeps),
        *done,
        *(rest for rest in rests.values() if now - rest.used > LEFTOVER_S and rest.name not in held),
        *_damaged(files),
        *_half_written(files, now),
        *_stale(files, set(claims) - held - {GC_CLAIM}),
    ]
    loose = [
        item
        for item in (*whole.values(), *(state for state in states if state.name not in whole))
        if item.name not in needed | held
    ]
    for item in loose:
        if item.name in forgotten or (older_than_s is not None and now - item.used > older_than_s):
            chosen.append(item)
    kept = sum(file.bytes for file in files) - sum(item.bytes for item in chosen)
    if keep_bytes is not None:
        for item in sorted(set(loose) - set(chosen), key=lambda item: (item.used, item.name)):
            if kept <= keep_bytes:
                break
            chosen.append(item)
            kept -= item.bytes
    too_much = max(0, kept - keep_bytes) if keep_bytes is not None else 0
    return Choice(items=tuple(chosen), kept_bytes=kept, too_much=too_much)


def remove(store: Store, choice: Choice) -> None:
    """Remove what was chosen, first what makes the rest of it exist: a sweep's plan, a stage's result. So a kill in the
    middle leaves whole stages, and rests that the next time finds."""
    for item in choice.items:
        if item.what == "stale claims":
            store.remove_claim(item.name)
        elif item.what == "sweeps":
            store.delete(f"sweeps/{item.name}/plan.json")
            store.delete_tree(f"sweeps/{item.name}")
        elif item.what == "damaged entries":
            store.delete_tree(f"damaged/{item.name}")
        elif item.what.startswith("stages"):
            folder = PurePosixPath(item.files[0]).parent
            store.delete(f"{folder}/result.json")
            store.delete_tree(str(folder))
        else:
            store.delete(item.files[0])


@contextmanager
def alone(store: Store) -> Iterator[None]:
    """Keep drivers from starting, for as long as it is looked and removed. Raises CannotCollect."""
    with store.claim(GC_CLAIM) as mine:
        if not mine:
            raise CannotCollect(f"storage {store.shown!r} is being cleaned by another `bottleneck gc`")
        yield


def _needed(store: Store, sweep: str, missing_ok: bool = False) -> set[str]:
    try:
        plan: Mapping[str, Any] = Journal(store, sweep).plan()
        return {digest for trial in plan["trials"] for _, digest in trial["stages"]}
    except (UnknownSweep, ValueError, KeyError, TypeError) as error:
        if missing_ok:
            return set()
        raise CannotCollect(
            f"sweep {sweep!r} has no plan that can be read, so nothing tells what it needs; run it again, or "
            f"forget it with --sweep {sweep}"
        ) from error


def _entries(files: Iterable[File]) -> tuple[dict[str, Item], dict[str, Item]]:
    """The stages by digest: those without a result, and those with one."""
    found: dict[tuple[str, str], list[File]] = {}
    for file in files:
        parts = file.name.split("/")
        if len(parts) == 5 and parts[0] == "stages" and not parts[4].startswith("."):
            found.setdefault((parts[1], parts[3]), []).append(file)
    rests: dict[str, Item] = {}
    whole: dict[str, Item] = {}
    for (kind, digest), group in found.items():
        if any(file.name.endswith("/result.json") for file in group):
            whole[digest] = _item(f"stages: {kind}", digest, group)
        else:
            rests[digest] = _item("stages without a result", digest, group)
    return rests, whole


def _damaged(files: Iterable[File]) -> Iterator[Item]:
    found: dict[str, list[File]] = {}
    for file in files:
        if file.name.startswith("damaged/"):
            found.setdefault(file.name.split("/")[1], []).append(file)
    for name, group in found.items():
        yield _item("damaged entries", name, group)


def _half_written(files: Iterable[File], now: float) -> Iterator[Item]:
    for file in files:
        ours = file.name.startswith(("stages/", "state/", "sweeps/"))
        if ours and PurePosixPath(file.name).name.startswith(".") and now - file.used > LEFTOVER_S:
            yield _item("files half written", file.name, [file])


def _stale(files: Iterable[File], claims: Iterable[str]) -> Iterator[Item]:
    sizes = {_stem(file.name): file.bytes for file in files if file.name.startswith(("locks/", "leases/"))}
    for claim in sorted(claims):
        yield Item(what="stale claims", name=claim, files=(), bytes=sizes.get(claim, 0), used=0.0)


def _item(what: str, name: str, files: Iterable[File]) -> Item:
    group = tuple(files)
    return Item(
        what=what,
        name=name,
        files=tuple(file.name for file in group),
        bytes=sum(file.bytes for file in group),
        used=max((file.used for file in group), default=0.0),
    )


def _stem(name: str) -> str:
    return PurePosixPath(name).name.removesuffix(".safetensors").removesuffix(".lock")


# What a user may write ------------------------------------------------------------------------------------------------

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
BYTES = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip


def age(text: str) -> float:
    """Seconds, from a text such as 30d. Raises CannotCollect."""
    return _quantity(text, SECONDS, "an age", "30d")


def size(text: str) -> int:
    """Bytes, from a text such as 50GB. Raises CannotCollect."""
    return round(_quantity(text, BYTES, "a size", "50GB"))


def _quantity(text: str, units: Mapping[str, int], what: str, example: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    unit = next((factor for name, factor in units.items() if match and name.lower() == match[2].lower()), None)
    if match is None or unit is None:
        raise CannotCollect(f"{text!r} is not {what}; write one as {example}, in {', '.join(units)}")
    return float(match[1]) * unit


def readable(size: int) -> str:
    """A number of bytes in three digits."""
    for name, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.3g} {name}"
    return f"{size} B"
