"""How is anything drawn at random so that every platform and numpy release draws the same?

From raw 64-bit draws, whose sequence numpy guarantees, and from sorting; never from numpy's distributions, which may
change between releases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainables import lazy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.Module("numpy")


def raw(seed: int, count: int) -> NDArray[np.uint64]:
    """(count,) independent draws of 64 bits."""
    return np.asarray(np.random.PCG64(seed).random_raw(count), np.uint64).reshape(count)


def uniform(seed: int, count: int) -> NDArray[np.float64]:
    """(count,) doubles in [0, 1): the top 53 bits of raw draws."""
    return (raw(seed, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, count: int) -> NDArray[np.int64]:
    """(count,) the numbers below `count` in a random order."""
    return np.argsort(raw(seed, count), kind="stable").astype(np.int64)
