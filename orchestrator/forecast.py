"""How long will it still take? From what stages like those that are missing have cost, here or in earlier runs.

Stages of one workload (`plan.workload`) are taken to cost time in proportion to their FLOPs. Their speed is the best
that is known: that of the very pretraining, if it is under way; that of stages which this run has finished; that of
other pretrainings under way; that of earlier runs on the same machine. Where nothing is known of a workload nothing is
said.
"""

from __future__ import annotations

from collections.abc import Mapping
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

    share: float  # of it, in [0, 1]
    share_per_second: float  # 0: nobody is training it now


@dataclass(frozen=True)
class Forecast:
    """How long the rest of a sweep takes."""

    seconds: float
    basis: str  # what that was calibrated on, for people


def forecast(
    to_do: Mapping[str, tuple[str, float]],
    paces: Mapping[str, Pace],
    finished: Mapping[str, Speed],
    earlier: Mapping[str, Speed],
    at_once: int,
) -> Forecast | None:
    """The time that missing stages take, with as many trials side by side as now; None: it is not known yet.

    Args:
        to_do: (workload, FLOPs) of the missing stages, by digest. One of 0 FLOPs takes no time.
        paces: of pretrainings among them that have begun, by digest.
        finished: by workload, stages that this run has computed.
        earlier: by workload, stages that earlier runs have computed on the same machine.
        at_once: trials that run side by side.
    """
    if not any(flops for _, flops in to_do.values()):
        return Forecast(0.0, "nothing is left to compute")
    if not at_once:
        return None
    training = _training(to_do, paces)
    seconds, under_way = 0.0, False
    here: set[str] = set()
    before: set[str] = set()
    for digest, (workload, flops) in to_do.items():
        pace = paces.get(digest, Pace(0.0, 0.0))
        rest = (1 - pace.share) * flops
        if flops and pace.share_per_second:
            seconds += (1 - pace.share) / pace.share_per_second
            under_way = True
        elif flops and workload in finished:
            seconds += rest * finished[workload].seconds / finished[workload].flops
            here.add(workload)
        elif flops and workload in training:
            seconds += rest / training[workload]
            under_way = True
        elif flops and workload in earlier:
            seconds += rest * earlier[workload].seconds / earlier[workload].flops
            before.add(workload)
        elif flops:
            return None
    said = [
        (sum(finished[workload].stages for workload in here), "{} of this run"),
        (int(under_way), "the pretraining under way"),
        (sum(earlier[workload].stages for workload in before), "{} of earlier runs on this machine"),
    ]
    basis = [text.format(f"{count:,} stage{'s' if count != 1 else ''}") for count, text in said if count]
    return Forecast(seconds / at_once, " and ".join(basis))


def _training(to_do: Mapping[str, tuple[str, float]], paces: Mapping[str, Pace]) -> dict[str, float]:
    """By workload, the mean FLOPs per second of the pretrainings under way."""
    speeds: dict[str, list[float]] = {}
    for digest, pace in paces.items():
        workload, flops = to_do.get(digest, ("", 0.0))
        if flops and pace.share_per_second:
            speeds.setdefault(workload, []).append(pace.share_per_second * flops)
    return {workload: sum(found) / len(found) for workload, found in speeds.items()}
