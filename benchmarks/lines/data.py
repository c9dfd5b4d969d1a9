"""What a line needs of this machine, and why it cannot be measured if that is missing."""

from __future__ import annotations

import os


def missing() -> str | None:
    """Why the datasets of the canonical sweeps are not there."""
    return None if os.environ.get("BOTTLENECK_DATA") else "BOTTLENECK_DATA is not set: no folder of real datasets"
