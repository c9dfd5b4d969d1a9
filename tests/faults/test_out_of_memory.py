"""The memory is not enough: pretraining goes on in smaller parts where that is exact; elsewhere the trial fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_sweep import Tiny

from trainables import memory, pretrain
from trainables.memory import OutOfMemory

SHIM = Path(__file__).parent / "shim"


def examples(size, classes=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (size,), generator=generator), torch.arange(size)


@pytest.mark.parametrize("micro_batch", [1, 3, 8, 10, 16])
def test_gradients_in_parts_are_those_of_the_whole_batch_up_to_rounding(micro_batch):
    """Parts of unequal size too: 10 examples in parts of 3 and of 8."""
    batch = examples(10)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 9), torch.nn.ReLU(), torch.nn.Linear(9, 3))
    network.double()

    def loss_of(x, y, rows):
        return torch.nn.functional.cross_entropy(network(x), y, label_smoothing=0.1)

    found = []
    for size in (len(batch[0]), micro_batch):
        network.zero_grad()
        loss = pretrain._gradients(loss_of, batch, size, torch.device("cpu"), "float32")
        found.append((loss, [p.grad.clone() for p in network.parameters()]))
    (loss, gradients), (loss_in_parts, gradients_in_parts) = found
    torch.testing.assert_close(loss_in_parts, loss)
    for one, other in zip(gradients_in_parts, gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_part_is_halved_down_to_one_example_and_never_where_a_batch_is_read_as_a_whole():
    sizes = [100]
    while sizes[-1] > 1:
        sizes.append(pretrain._smaller(sizes[-1], True, "no memory"))
    assert sizes == [100, 50, 25, 13, 7, 4, 2, 1]
    with pytest.raises(OutOfMemory, match=r"1 examples of a step do not fit.*lower pretrain.batch_size.*\(no memory\)"):
        pretrain._smaller(1, True, "no memory")
    with pytest.raises(OutOfMemory, match="batch normalisation, dropout or a guide reads it as a whole"):
        pretrain._smaller(100, False, "no memory")


def test_every_way_to_say_that_there_is_no_memory_is_known():
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(2**50)
    assert memory.is_exhausted(of_torch.value)
    import numpy as np

    with pytest.raises(MemoryError) as of_numpy:
        np.empty(2**50)
    assert memory.is_exhausted(of_numpy.value)
    assert memory.is_exhausted(torch.OutOfMemoryError("CUDA out of memory"))
    assert memory.is_exhausted(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"))
    assert not memory.is_exhausted(RuntimeError("shapes do not match"))


LIMITED = """
import resource, sys
from dataclasses import replace
import torch
from trainables import components
from trainables.mixture import mixture_of
from trainables.pretrain import pretrain
from trainables.spec import Architecture, PretrainSpec, Source, Training

torch.set_num_threads(1)
digits = components.prepare(Source(dataset="digits"))
batch, steps = 65536, 2
mixture = mixture_of({"d": 1}, {"d": digits}, num_examples=batch * steps, train_examples=None, label_space="joint")
spec = PretrainSpec(
    mixture=mixture, architecture=Architecture(name="mlp", image_shape=digits.image_shape, width=2.0),
    training=Training(steps=steps, batch_size=batch), seed=0,
)

def run():
    steps = pretrain(spec, [components.load(digits)], device=torch.device("cpu"))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value

whole = run()
torch.testing.assert_close(torch.zeros(1), torch.zeros(1))  # what it imports is taken too
taken = int(next(l for l in open("/proc/self/status") if l.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM * 2**20, -1))
parts = run()
print(whole.micro_batch, parts.micro_batch)
for one, other in zip(whole.network.parameters(), parts.network.parameters()):
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
for (_, one), (_, other) in zip(whole.loss_curve, parts.loss_curve):
    assert abs(one - other) < 1e-4 * one, (one, other)
"""


def test_a_real_lack_of_memory_ends_in_the_same_network_from_smaller_parts():
    """The process may have little more memory than the libraries and a first run have taken."""
    done = subprocess.run([sys.executable, "-c", LIMITED.replace("ROOM", "100")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole, parts = map(int, done.stdout.split())
    assert whole == 65536
    assert parts < 65536


CODE = """
import resource, sys

from sklearn.datasets import load_digits


def hungry():
    "In a worker, which may have 110 MB more from now on: the batch alone is 16 MB."
    if any(argument.endswith("default_worker.py") for argument in sys.orig_argv):
        with open("/proc/self/status") as status:
            taken = int(next(line for line in status if line.startswith("VmSize")).split()[1]) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (taken + 110 * 2**20, -1))
    found = load_digits()
    images, labels = (found.images * 15).astype("uint8"), found.target.astype("int64")
    return {"train": (images[:1200], labels[:1200]), "test": (images[1200:], labels[1200:])}
"""
SWEEP = """
name: tiny
question: What does a lack of memory do to a sweep?
components: {mine: {dataset: "python:hungry:hungry"}}
vary: {mixture: {mine: 1}, architecture: [cnn, mlp], width: 2}
seeds: 1
pretrain: {steps: 2, batch_size: 65536}
transfer: {train_examples: 100}
"""


@pytest.mark.slow
def test_in_a_sweep_one_network_is_trained_in_parts_and_one_that_cannot_be_fails_with_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "hungry.py").write_text(CODE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(SHIM)]), prepend=os.pathsep)
    tiny = Tiny(tmp_path, SWEEP)
    one = f"resources.cpu={os.cpu_count()}"  # one trial after the other, in one worker
    tiny.run("--set", one, expect=1, environment={"SHIM_WORKER_CACHE": str(tmp_path / "their-cache")})
    table = tiny.table().set_index("architecture")
    assert table["status"].to_dict() == {"cnn": "failed", "mlp": "ok"}
    assert "OutOfMemory" in table["error"]["cnn"]
    assert "lower pretrain.batch_size or the width" in table["error"]["cnn"]
    store, digest = tiny.journal.store, tiny.journal.plan()["trials"][1]["cells"][0]["pretrain"][0]
    assert store.get("pretrain", digest)["micro_batch"] < 65536


@pytest.mark.gpu
def test_on_a_gpu_a_cap_on_memory_ends_in_smaller_parts():
    cap = "torch.cuda.set_per_process_memory_fraction(FRACTION)"
    code = LIMITED.replace('torch.device("cpu")', 'torch.device("cuda")').split("taken = ")[0]
    code += f"""
torch.cuda.empty_cache()
total = torch.cuda.get_device_properties(0).total_memory
peak = torch.cuda.max_memory_allocated()
{cap.replace("FRACTION", "0.7 * peak / total")}
parts = run()
print(whole.micro_batch, parts.micro_batch)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole, parts = map(int, done.stdout.split())
    assert parts < whole == 65536
