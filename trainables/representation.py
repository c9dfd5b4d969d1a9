"""What does the probe read? The networks whose features are concatenated.

Members are ordinary pretraining stages: a concatenation shares them with every trial that has them. `cat` trains each
for the full number of steps, `time_cat` shares the steps out among them, so that it costs what one network costs.

Source: CAT is Zhang & Bottou (2023), arXiv:2212.07346; Time-CAT is Yang, Zhang & Bottou (2025), arXiv:2506.18221.
"""

from __future__ import annotations

from trainables.spec import derive_seed


def parse(representation: str) -> tuple[str, int]:
    """The kind and the number of members: `single` is one, `cat:4` and `time_cat:4` are four."""
    kind, _, members = representation.partition(":")
    return kind, int(members) if members else 1


def member_steps(representation: str, steps: int) -> int:
    """Optimiser steps of each member."""
    kind, members = parse(representation)
    return steps // members if kind == "time_cat" else steps


def member_seeds(representation: str, seed: int) -> tuple[int, ...]:
    """The seed of each member. The first is the replicate's own; the others belong to this replicate alone.

    So replicates share no network and stay independent, and the first member is shared with `single`.
    """
    _, members = parse(representation)
    return (seed, *(derive_seed(seed, "member", str(m)) for m in range(1, members)))
