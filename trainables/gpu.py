"""How busy is the GPU that a trial runs on?"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass


@dataclass(frozen=True)
class GpuUse:
    """One GPU, with all that runs on it."""

    gpu: str  # its UUID: trials may share one
    name: str
    used_bytes: int
    total_bytes: int
    busy: float | None  # share of the last moments in which it computed; None: nvidia-ml-py, which tells, is missing


def use(device: str) -> GpuUse | None:
    """The use of the current GPU; None for a CPU, and where the GPU does not tell."""
    import torch

    if device != "cuda" or not torch.cuda.is_available():
        return None
    with contextlib.suppress(RuntimeError):
        free, total = torch.cuda.mem_get_info()
        about = torch.cuda.get_device_properties()
        return GpuUse(gpu=str(about.uuid), name=about.name, used_bytes=total - free, total_bytes=total, busy=_busy())
    return None


def _busy() -> float | None:
    import torch

    try:
        return torch.cuda.utilization() / 100
    except Exception:  # no nvidia-ml-py, or one of its many errors: a display is no reason for a trial to fail
        return None
