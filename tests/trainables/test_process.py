"""A process that has run a trial is as one that has not."""

import logging
import platform
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from trainables.process import SETTINGS, Settings

# What a user's network might do, by the name of the setting.
CHANGES = {
    "torch's threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch's default dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch's default device": lambda: torch.set_default_device("meta"),
    "gradients": lambda: torch.set_grad_enabled(False),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "autocast on CPU": lambda: torch.set_autocast_enabled("cpu", True),
    "autocast on CUDA": lambda: torch.set_autocast_enabled("cuda", True),
    "precision of float32 products": lambda: torch.set_float32_matmul_precision("medium"),
    "cuDNN's flags": lambda: setattr(torch.backends.cudnn, "benchmark", not torch.backends.cudnn.benchmark),
    "NumPy's floating point errors": lambda: np.seterr(divide="ignore", over="raise"),
    "Python's recursion limit": lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 100),
    "the root logger": lambda: logging.root.addHandler(logging.NullHandler()),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_a_trial_changes_is_named_and_put_back(name):
    get, _ = SETTINGS[name]
    kept, before = Settings(), get()
    CHANGES[name]()
    assert get() != before
    assert kept.restore() == [name]
    assert get() == before
    assert kept.restore() == []
    assert torch.zeros(1).device.type == "cpu"


def test_random_numbers_begin_anew_and_that_is_no_fault():
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    kept = Settings()
    first, second = draw(), draw()
    assert first != second
    assert kept.restore() == []
    assert (draw(), draw()) == (first, second)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="freed memory is kept by glibc's allocator")
def test_freed_memory_is_used_again_and_not_asked_for_anew():
    assert faults("keep_freed_memory()") < faults("") / 10


def faults(first: str) -> int:
    """Pages that the system gives a process which allocates and frees 64 MB ten times, after the first time."""
    code = f"""
import resource, torch
from trainables.process import keep_freed_memory
{first}
def step(): [torch.ones(2**20) for _ in range(16)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
