"""What did a sweep cost, and what did sharing its stages save?

Hours are the wall clock of stages on their device, as whoever computed them wrote it down. A device that several
trials share is counted once for each of them. Start-up, waiting and work that a kill threw away are not in it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.results import Lookup


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of the stages of one kind on one device."""

    kind: str  # pretrain, probe, ...
    device: str
    stages: int  # different ones, those at which a trial was judged on its way among them
    computed: int  # of them, for this sweep; the others were in the store
    asked: int  # times that a trial needs one for its end
    spent_s: float  # for this sweep, stages that were computed again included
    shared_s: float  # spared, because trials that need the same stage share it
    found_s: float  # spared, because the store had them; as far as anybody wrote down what they took


@dataclass(frozen=True)
class _Run:
    """What belongs together: a stage, or a pretraining with its checkpoints, whose time is part of its own."""

    stages: int
    computed: int
    asked: int
    spent_s: float
    shared_s: float
    found_s: float


def costs(plan: Mapping[str, Any], events: Iterable[Mapping[str, Any]], lookup: Lookup) -> list[Cost]:
    """What the stages of a sweep took, by kind and device, the most expensive first.

    Args:
        plan: what `Plan.as_json` wrote.
        events: of the sweep's journal.
        lookup: gives the results of stages, for those that this sweep found in the store.
    """
    written: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        if event["event"] == "stage":
            written[event["digest"]].append(event)
    asked = Counter(digest for trial in plan["trials"] for _, digest in trial["stages"])
    kinds = {digest: kind for trial in plan["trials"] for kind, digest in trial["stages"]}
    kinds |= {digest: own[-1]["kind"] for digest, own in written.items()}
    runs: dict[tuple[str, str, str], list[_Run]] = defaultdict(list)
    for digest, kind in kinds.items():
        own, times = written.get(digest, []), asked[digest]
        if own:
            of, device = own[-1].get("run", digest), own[-1]["device"]
            took = [event.get("seconds_in_all", event["seconds"]) for event in own]
            one = _Run(1, 1, times, sum(took), max(0, times - 1) * took[-1], 0.0)
        elif result := lookup(kind, digest):
            of, device = result.get("run", digest), result.get("device", "unknown")
            seconds = result.get("seconds") or 0.0
            one = _Run(1, 0, times, 0.0, (times - 1) * seconds, seconds)
        else:
            continue  # nobody has computed it
        runs[kind, device, of].append(one)
    of_kind: dict[tuple[str, str], list[_Run]] = defaultdict(list)
    for (kind, device, _), parts in runs.items():
        of_kind[kind, device].append(_together(parts))
    found = [
        Cost(
            kind=kind,
            device=device,
            **{name: sum(getattr(run, name) for run in of_it) for name in _Run.__dataclass_fields__},
        )
        for (kind, device), of_it in of_kind.items()
    ]
    return sorted(found, key=lambda one: (-one.spent_s, -one.found_s, one.kind, one.device))


def _together(parts: Iterable[_Run]) -> _Run:
    """A run with its checkpoints: they are counted, and take no time of their own."""
    known = list(parts)
    counts = {name: sum(getattr(one, name) for one in known) for name in ("stages", "computed", "asked")}
    times = {name: max(getattr(one, name) for one in known) for name in ("spent_s", "shared_s", "found_s")}
    return _Run(**counts, **times)
