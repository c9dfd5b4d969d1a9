"""The lines of a GPU: `benchmarks/gpu.py` measures them, and more, on a machine that has nothing but torch."""

from __future__ import annotations

from pathlib import Path

from benchmarks.table import Figure, Line, Measure, at_least


def fused(folder: Path, *, seeds: int) -> Measure:
    import torch

    from benchmarks import gpu

    device, scale = torch.device("cuda"), gpu.Scale(group_sizes=(seeds,))
    data = gpu.images_of_noise(folder, scale.examples)

    def measure(swapped: bool) -> dict[str, float]:
        found = gpu.fused(device, scale, data, "cnn")
        return {
            "examples/s, seeds as one / one at a time": found[f"cnn, {seeds} as one / one at a time"],
            "one at a time, examples/s": found["cnn, one at a time, examples/s"],
        }

    return measure


def resnet18(folder: Path, *, batch_size: int) -> Measure:
    import torch

    from benchmarks import gpu

    device, scale = torch.device("cuda"), gpu.Scale(batch_size=batch_size)
    data = gpu.images_of_noise(folder, scale.examples)
    return lambda swapped: gpu.resnet18(device, scale, data, swapped)


def no_device() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "no CUDA device"


LINES = (
    Line(
        name="gpu-fused",
        question="Fused seeds of the small cnn on a GPU: examples/s against one at a time?",
        prepare=fused,
        figures=(
            Figure(name="examples/s, seeds as one / one at a time", goal=at_least(10)),
            Figure(name="one at a time, examples/s"),
        ),
        full={"seeds": 64},
        quick={"seeds": 2},
        missing=no_device,
    ),
    Line(
        name="gpu-resnet18",
        question="resnet18 on CIFAR-10's shape on a GPU: examples/s against a bare tuned loop?",
        prepare=resnet18,
        figures=(
            Figure(name="resnet18, ours / bare tuned loop", goal=at_least(0.95)),
            Figure(name="resnet18, ours, examples/s"),
            Figure(name="resnet18, ours, TFLOP/s"),
        ),
        full={"batch_size": 512},
        quick={"batch_size": 128},
        missing=no_device,
    ),
)
