"""A process that has run a trial is as one that has not."""

import logging
import os
import platform
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from trainables.process import SET_BY_USER, SETTINGS, Settings

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


GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="freed memory is kept by glibc's allocator")
PAGES = """
import ctypes, resource, torch
from trainables.process import M_TRIM_THRESHOLD, keep_freed_memory
{first}
def step(): [torch.ones(2**20) for _ in range(16)]
for _ in range(3): step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
WEIGHTS = """
import hashlib, torch
from trainables.architectures import build
from trainables.process import keep_freed_memory
from trainables.spec import Architecture
{first}
torch.set_num_threads(1)
network = build(Architecture(name="cnn", image_shape=(1, 28, 28)), 10, seed=0).to(memory_format=torch.channels_last)
optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
generator = torch.Generator().manual_seed(0)
for _ in range(8):
    x, y = torch.randn(128, 1, 28, 28, generator=generator), torch.randint(10, (128,), generator=generator)
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(network(x), y).backward()
    optimizer.step()
print(hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in network.parameters())).hexdigest())
"""


def printed(code, first, **variables):
    """What a new process prints that begins so."""
    unset = {*SET_BY_USER, "GLIBC_TUNABLES"}
    environment = {name: value for name, value in os.environ.items() if name not in unset} | variables
    words = [sys.executable, "-c", code.format(first=first)]
    return subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout


def faults(*calls, **variables):
    """Page faults of a process that takes and frees 64 MB ten times, and would give all of it back."""
    return int(printed(PAGES, "; ".join(["ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 2**17)", *calls]), **variables))


@GLIBC
@pytest.mark.parametrize(
    ("variables", "kept"),
    [
        ({}, True),
        ({"GLIBC_TUNABLES": "glibc.rtld.optional_static_tls=1024"}, True),
        ({"GLIBC_TUNABLES": f"glibc.malloc.trim_threshold={2**17}"}, False),
        ({"MALLOC_TRIM_THRESHOLD_": str(2**17)}, False),
    ],
)
def test_freed_memory_is_used_again_unless_the_user_has_set_the_allocator(variables, kept):
    assert (faults("keep_freed_memory()", **variables) < faults() / 10) == kept


@GLIBC
def test_training_in_kept_memory_gives_the_same_weights_to_the_last_bit():
    assert printed(WEIGHTS, "keep_freed_memory()") == printed(WEIGHTS, "")
