"""How many examples does each component of a mixture get? Weights to exact counts.

Which examples those are, and when they come, is `ordering.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

from trainables.spec import Component, Mixture, Share


def shares_of(weights: Mapping[str, float]) -> dict[str, Fraction]:
    """The share of each component, exactly: weights are relative, so doubling all of them changes nothing.

    Raises:
        ValueError: a weight is negative, infinite or not a number, or all of them are zero.
    """
    whole = _whole_weights(tuple(weights.items()))
    return {name: Fraction(weight, sum(whole)) for name, weight in zip(weights, whole, strict=True)}


def apportion(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers that add up to `total` and differ from the exact shares by less than one (largest remainder).

    A component with a positive weight whose share rounds to nothing gets 0. Ties go to the component named first.

    Raises:
        ValueError: as `shares_of`.
    """
    whole = _whole_weights(tuple(weights.items()))
    in_all = sum(whole)
    counts = [weight * total // in_all for weight in whole]
    if missing := total - sum(counts):
        remainders = [weight * total % in_all for weight in whole]
        by_remainder = sorted(range(len(counts)), key=remainders.__getitem__, reverse=True)  # ties keep their order
        for i in by_remainder[:missing]:
            counts[i] += 1
    return dict(zip(weights, counts, strict=True))


@functools.lru_cache(4096)  # a plan asks for the same mixture at every number of steps
def _whole_weights(weights: tuple[tuple[str, float], ...]) -> tuple[int, ...]:
    """Whole numbers in the same proportions as the weights."""
    for name, weight in weights:
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"component {name!r} has weight {weight:g}; weights are relative, finite and at least 0")
    # Through the shortest decimal that reads back as the float: 0.1 is a tenth, as its author meant.
    exact = [Decimal(repr(float(weight))).as_integer_ratio() for _, weight in weights]
    if not any(numerator for numerator, _ in exact):
        names = ", ".join(name for name, _ in weights) or "no component"
        raise ValueError(f"every weight is 0 ({names}); give one a positive weight")
    scale = math.lcm(*(denominator for _, denominator in exact))
    return tuple(numerator * (scale // denominator) for numerator, denominator in exact)


def mixture_of(
    weights: Mapping[str, float],
    components: Mapping[str, Component],
    *,
    num_examples: int,
    train_examples: int | None,
    label_space: str,
) -> Mixture:
    """The mixture of `weights`.

    Args:
        weights: component name to relative weight; names of weight 0 may be left out.
        components: component name to component.
        num_examples: examples shown in the whole run, repetitions counted: steps times batch size.
        train_examples: examples to draw from over all components, shared out by weight; None: all that there are.
            A component that has fewer than its share gives what it has.
        label_space: "joint" or "shared".

    Raises:
        ValueError: a weight is impossible, or too small for the component to be shown even once.
    """
    shown = apportion(weights, num_examples)
    pools = apportion(weights, train_examples) if train_examples is not None else {}
    merged: dict[str, Share] = {}
    for name, weight in weights.items():
        if weight == 0:
            continue
        component = components[name]
        pool = min(pools.get(name, component.num_train), component.num_train)
        if shown[name] == 0 or pool == 0:
            raise ValueError(
                f"component {name!r} has weight {weight:g}, less than one example of the "
                f"{num_examples} shown; give it more weight, or 0 to leave it out"
            )
        if component.content in merged:
            raise ValueError(f"component {name!r} has the same examples as another one in the mixture")
        merged[component.content] = Share(
            component=component, shown=shown[name], pool=pool, distinct=min(pool, shown[name])
        )
    return Mixture(shares=tuple(merged[content] for content in sorted(merged)), label_space=label_space)
