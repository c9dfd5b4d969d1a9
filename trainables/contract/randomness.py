"""Does code leave the global generators alone? Their states before and after."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Fails if what happens inside draws from, or seeds, a generator that everyone shares."""
    before = _states()
    yield
    used = [name for name, state in _states().items() if state != before[name]]
    assert not used, f"uses the global generator of {', '.join(used)}; draw from one that is passed in, or of your own"


def reseed(seed: int) -> None:
    """Put the global generators into a state, which must make no difference."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _states() -> dict[str, object]:
    numpy: Any = np.random.get_state()
    return {
        "random": random.getstate(),
        "numpy": (str(numpy[0]), np.asarray(numpy[1]).tobytes(), numpy[2]),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
