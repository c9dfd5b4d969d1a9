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
    stages: int  # different ones
    computed: int  # of them, for this sweep; the others were in the store
    asked: int  # times that a trial needs one
    spent_s: float  # for this sweep, stages that were computed again included
    shared_s: float  # spared, because trials that need the same stage share it
    found_s: float  # spared, because the store had them; as far as anybody wrote down what they took


def costs(plan: Mapping[str, Any], events: Iterable[Mapping[str, Any]], lookup: Lookup) -> list[Cost]:
    """What the stages of a plan took, by kind and device, the most expensive first.

    Args:
        plan: what `Plan.as_json` wrote.
        events: of the sweep's journal.
        lookup: gives the results of stages, for those that this sweep found in the store.
    """
    written: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        if event["event"] == "stage":
            written[event["digest"]].append(event)
    asked = Counter((kind, digest) for trial in plan["trials"] for kind, digest in trial["stages"])
    of_kind: dict[tuple[str, str], list[tuple[int, float, float, bool]]] = defaultdict(list)
    for (kind, digest), times in asked.items():
        own = written.get(digest)
        result = None if own else lookup(kind, digest)
        if own:
            device, last, spent = own[-1]["device"], own[-1]["seconds"], sum(event["seconds"] for event in own)
        elif result:
            device, last, spent = result["device"], result.get("seconds") or 0.0, 0.0
        else:
            continue  # nobody has computed it
        of_kind[kind, device].append((times, last, spent, own is not None))
    found = [
        Cost(
            kind=kind,
            device=device,
            stages=len(stages),
            computed=sum(own for *_, own in stages),
            asked=sum(times for times, *_ in stages),
            spent_s=sum(spent for _, _, spent, _ in stages),
            shared_s=sum((times - 1) * last for times, last, _, _ in stages),
            found_s=sum(last for _, last, _, own in stages if not own),
        )
        for (kind, device), stages in of_kind.items()
    ]
    return sorted(found, key=lambda one: (-one.spent_s, -one.found_s, one.kind, one.device))
