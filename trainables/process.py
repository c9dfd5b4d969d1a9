"""What is of a worker's process, and not of a trial? Settings, which are put back after each, and its freed memory.

A worker runs one trial after the other, for a process takes seconds to start. A trial's own state ends with it. What
torch, NumPy and Python keep for the whole process stays, and a network or a dataset of the user's may change it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

log = logging.getLogger(__name__)

KEPT_BYTES = 2**30  # free at the end of the heap at most: what a step of most networks takes
MAPPED_FROM = 2**25  # bytes: larger blocks are the system's each time; glibc takes no more
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
SET_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed_memory() -> None:
    """Have this process use freed memory again, and not give it back to the system for the next step to ask for.

    glibc gives back whatever is free at the end of the heap, after every step of training, and the system clears and
    maps the pages anew in the next. Results are the same to the last bit. Other C libraries are left alone, and so is
    an allocator that the user has set by glibc's own variables.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    set_by_user = [name for name in SET_BY_USER if name in os.environ]
    if mallopt is not None and not set_by_user and "glibc.malloc" not in os.environ.get("GLIBC_TUNABLES", ""):
        mallopt(M_MMAP_THRESHOLD, MAPPED_FROM)  # it no longer finds its own as soon as one of the two is set
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


class Settings:
    """The settings of this process as they were when this was made."""

    def __init__(self) -> None:
        self._kept = {name: get() for name, (get, _) in SETTINGS.items()}
        self._draws = random.getstate(), np.random.get_state(), torch.get_rng_state()

    def restore(self) -> list[str]:
        """Put them back; returns the names of those that had been changed.

        Generators of random numbers are put back too, and not named: to draw from them is no fault. Nothing of this
        program does, but a user's network may.
        """
        changed = [name for name, (get, _) in SETTINGS.items() if get() != self._kept[name]]
        for name in changed:
            SETTINGS[name][1](self._kept[name])
        python, numpy, tensors = self._draws
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(tensors)
        return changed


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _cudnn() -> tuple[bool, ...]:
    flags = torch.backends.cudnn
    return flags.enabled, flags.benchmark, flags.deterministic, flags.allow_tf32


def _set_cudnn(values: tuple[bool, ...]) -> None:
    flags = torch.backends.cudnn
    flags.enabled, flags.benchmark, flags.deterministic, flags.allow_tf32 = values


def _root_log() -> tuple[int, list[logging.Handler], int]:
    return logging.root.level, list(logging.root.handlers), logging.root.manager.disable


def _set_root_log(values: tuple[int, list[logging.Handler], int]) -> None:
    logging.root.level, logging.root.handlers[:], logging.root.manager.disable = values


# How each is read and set.
SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "torch's threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (torch.get_default_device, lambda _: torch.set_default_device(None)),
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "deterministic algorithms": (_deterministic, lambda to: torch.use_deterministic_algorithms(to[0], warn_only=to[1])),
    "autocast on CPU": (lambda: torch.is_autocast_enabled("cpu"), lambda to: torch.set_autocast_enabled("cpu", to)),
    "autocast on CUDA": (lambda: torch.is_autocast_enabled("cuda"), lambda to: torch.set_autocast_enabled("cuda", to)),
    "precision of float32 products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "cuDNN's flags": (_cudnn, _set_cudnn),
    "NumPy's floating point errors": (np.geterr, lambda to: np.seterr(**to)),
    "Python's recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "the root logger": (_root_log, _set_root_log),
}
