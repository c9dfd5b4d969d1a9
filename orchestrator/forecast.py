"""How long will it still take? From what stages like those that are missing have cost, here or in earlier runs.

Stages of one workload (`plan.workload`) are taken to cost time in proportion to their FLOPs. Their speed is the best
that is known: that of the very pretraining, if it is under way; that of stages which this run has finished; that of
other pretrainings under way; that of earlier runs on the same machine; and for what is read of a network, not for
training one, that of the same reading of other architectures. Where nothing is known of a workload nothing is said.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Speed:
    """What finished stages of one workload have cost together."""

    seconds: float
    flops: float  # above 0
    stages: int

    def __add__(self, other: Speed) -> Speed:
        return Speed(self.seconds + other.seconds, self.flops + other.flops, self.stages + other.stages)


@dataclass(frozen=True)
class Pace:
    """How far a pretraining is, and how fast."""

    workload: str
    flops: float  # of the whole run
    share: float  # of it, done
    share_per_second: float  # 0: nobody is training it now


@dataclass(frozen=True)
class Forecast:
    """How long the rest of a sweep takes."""

    seconds: float
    basis: str  # what that was calibrated on, for people


def forecast(
    left: Mapping[str, float],
    begun: Collection[Pace],
    finished: Mapping[str, Speed],
    earlier: Mapping[str, Speed],
    at_once: int,
) -> Forecast | None:
    """The time that missing stages take, with as many trials side by side as now; None: it is not known yet.

    Args:
        left: by workload, the FLOPs of all missing stages.
        begun: the pretrainings among them that are under way, or were.
        finished: by workload, stages that this run has computed.
        earlier: by workload, stages that earlier runs have computed on the same machine.
        at_once: trials that run side by side.
    """
    if not any(left.values()):
        return Forecast(0.0, "nothing is left to compute")
    if not at_once:
        return None
    training = _training(begun)
    seconds = sum((1 - pace.share) / pace.share_per_second for pace in begun if pace.share_per_second)
    here: set[str] = set()
    before: set[str] = set()
    for workload, flops in left.items():
        known = [pace for pace in begun if pace.workload == workload]
        rest = flops - sum(pace.flops * (1 if pace.share_per_second else pace.share) for pace in known)
        if rest <= 0:
            continue
        if workload in finished:
            seconds += rest * finished[workload].seconds / finished[workload].flops
            here.add(workload)
        elif workload in training:
            seconds += rest / training[workload]
        elif workload in earlier:
            seconds += rest * earlier[workload].seconds / earlier[workload].flops
            before.add(workload)
        elif others := _same_reading(workload, finished):
            seconds += rest * sum(finished[o].seconds for o in others) / sum(finished[o].flops for o in others)
            here.update(others)
        else:
            return None
    said = [
        (sum(finished[workload].stages for workload in here), "{} of this run"),
        (len(training), "the pretraining under way"),
        (sum(earlier[workload].stages for workload in before), "{} of earlier runs on this machine"),
    ]
    basis = [text.format(f"{count:,} stage{'s' if count != 1 else ''}") for count, text in said if count]
    return Forecast(seconds / at_once, " and ".join(basis))


def _training(begun: Collection[Pace]) -> dict[str, float]:
    """By workload, the mean FLOPs per second of the pretrainings under way."""
    speeds: dict[str, list[float]] = {}
    for pace in begun:
        if pace.share_per_second:
            speeds.setdefault(pace.workload, []).append(pace.share_per_second * pace.flops)
    return {workload: sum(found) / len(found) for workload, found in speeds.items()}


def _same_reading(workload: str, finished: Mapping[str, Speed]) -> list[str]:
    """The workloads of one probe or other measurement on networks of all architectures; none for a pretraining."""
    reading = workload.split()[0]
    return [other for other in finished if other.split()[0] == reading != "pretrain"]
