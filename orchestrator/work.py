"""What is left to compute, and what does it cost? The stages of trials, asked of the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from orchestrator.plan import Plan, architectures, costs, schedule, training_flops, workload
from orchestrator.results import Lookup
from trainables import facts
from trainables.facts import NetworkSize
from trainables.spec import Architecture, PretrainSpec, StageSpec, TrialSpec, in_order
from trainables.store import Store


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The stages of some trials, each once."""

    to_do: dict[str, tuple[str, float]]  # digest -> (workload, FLOPs)
    stored: int  # in the store, of those that had not been asked about before
    total: int  # that had not been asked about before
    weight_bytes: int  # of the networks to do, their heads left out; the rest of a store is small beside them
    missing: tuple[TrialSpec, ...]  # the trials that have something to do, the longest first


class Work:
    """What the trials of one sweep have to do."""

    def __init__(self, plan: Plan, store: Store, lookup: Lookup, sizes: Mapping[str, NetworkSize]) -> None:
        """
        Args:
            lookup: the results of stages, each read and checked.
            sizes: of the networks that were measured so far, by the digest of their architecture.
        """
        self._plan, self._store, self._lookup, self._sizes = plan, store, lookup, dict(sizes)
        self._known: set[str] = set()  # digests of stages that have been asked about

    def of(self, trials: Iterable[TrialSpec]) -> Stages:
        """What rests on a network that diverged will never be there, and is not to be done."""
        plan = replace(self._plan, trials=tuple(trials))
        self._measure(architectures(plan))
        flops = costs(plan, self._sizes)
        there = self._store.existing((stage.kind, digest) for digest, (stage, _) in flops.items())
        # Read, not only seen: an entry that fails its checksum is set aside here, and is computed again.
        stored = {digest for digest in there if self._lookup(flops[digest][0].kind, digest) is not None}
        settled = stored | self._never(flops)
        new = flops.keys() - self._known
        self._known |= new
        return Stages(
            to_do={d: (workload(stage), cost) for d, (stage, cost) in flops.items() if d not in settled},
            stored=len(stored & new),
            total=len(new),
            weight_bytes=sum(
                4 * self._sizes[stage.architecture.digest].parameters
                for digest, (stage, _) in flops.items()
                if digest not in settled and isinstance(stage, PretrainSpec)
            ),
            missing=tuple(assignment.trial for assignment in schedule(plan, self._sizes, settled)),
        )

    def training_flops(self, trial: TrialSpec) -> float:
        """Floating point operations of the pretrainings that a trial needs, for one seed."""
        self._measure(architectures(replace(self._plan, trials=(trial,))))
        return training_flops(trial, self._sizes)

    def _measure(self, networks: Iterable[Architecture]) -> None:
        """A search may come to networks that nobody has measured yet."""
        unknown = [network for network in networks if network.digest not in self._sizes]
        if unknown:
            self._sizes |= facts.network_sizes(unknown, lambda line: None)

    def _never(self, flops: Mapping[str, tuple[StageSpec, float]]) -> set[str]:
        lost: set[str] = set()
        never: set[str] = set()
        for stage in in_order(stage for stage, _ in flops.values()):
            if any(required.digest in lost for required in stage.requires):
                never.add(stage.digest)
                lost.add(stage.digest)
            elif isinstance(stage, PretrainSpec) and self._diverged(stage):
                lost.add(stage.digest)
        return never

    def _diverged(self, run: PretrainSpec) -> bool:
        return (self._lookup(run.kind, run.digest) or {}).get("status") == "diverged"
