"""What does a network see? Batches of a stream on the device, bytes as the floats that they stand for.

Data that lies in memory is gathered there; data that is too big is decoded by worker processes ahead of the step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from trainables.components import ComponentData
from trainables.ordering import Stream
from trainables.spec import Mixture


class Feed:
    """The batches of a stream, on the device: (B, C, H, W) floats, (B,) labels of the head, and (B,) rows.

    A row names an example: its place in the training splits of all components, one after the other.

    Data that lies in memory is gathered there, on the device itself if that is a GPU. Data that is too big is decoded
    by worker processes, ahead of the training step.
    """

    def __init__(
        self,
        stream: Stream,
        mixture: Mixture,
        data: Sequence[ComponentData],
        batch_size: int,
        device: torch.device,
    ) -> None:
        self._stream, self._data, self._batch_size, self._device = stream, data, batch_size, device
        self._offsets = mixture.label_offsets
        self._ranges = [d.value_range for d in data]
        self._first_rows = np.cumsum([0, *(len(d.train) for d in data)])[:-1]  # (K,)

    def __len__(self) -> int:
        return len(self._stream) // self._batch_size

    def batches(self, first: int, until: int | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """From batch number `first` on, up to `until`, which is left out; None: to the end."""
        resident = all(d.train.resident for d in self._data)
        count = len(self) if until is None else until
        return self._gathered(first, count) if resident else self._decoded(first, count)

    def _gathered(self, first: int, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Within a batch the components lie one after the other, so that each is one gather without a mask."""
        images = [on_device(d.train.images, self._device) for d in self._data]
        labels = [on_device(d.train.labels, self._device) + o for d, o in zip(self._data, self._offsets, strict=True)]
        size = self._batch_size
        component = self._stream.component[: count * size].reshape(count, size)
        example = self._stream.example[: count * size].reshape(count, size)
        order = np.argsort(component, axis=1, kind="stable")
        example_sorted = torch.from_numpy(np.take_along_axis(example, order, axis=1)).to(self._device)
        first_row = torch.from_numpy(self._first_rows[np.take_along_axis(component, order, axis=1)]).to(self._device)
        counts = np.stack([(component == k).sum(axis=1) for k in range(len(images))], axis=1)
        ends = np.concatenate([np.zeros((count, 1), np.int64), counts.cumsum(axis=1)], axis=1).tolist()
        for batch in range(first, count):
            indices, bounds = example_sorted[batch], ends[batch]
            x, y = [], []
            for k in range(len(images)):
                if bounds[k + 1] > bounds[k]:
                    chosen = indices[bounds[k] : bounds[k + 1]]
                    x.append(to_float(images[k].index_select(0, chosen), self._ranges[k]))
                    y.append(labels[k].index_select(0, chosen))
            rows = first_row[batch] + indices
            yield (torch.cat(x), torch.cat(y), rows) if len(x) > 1 else (x[0], y[0], rows)

    def _decoded(self, first: int, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        examples = _StreamedExamples(self._stream, [d.train for d in self._data], self._offsets)
        loader = torch.utils.data.DataLoader(
            examples,
            batch_size=self._batch_size,
            sampler=range(first * self._batch_size, count * self._batch_size),
            num_workers=DECODING_WORKERS,
            pin_memory=self._device.type == "cuda",
            prefetch_factor=4,
        )
        low = torch.tensor([r[0] for r in self._ranges], device=self._device)
        high = torch.tensor([r[1] for r in self._ranges], device=self._device)
        first_row = torch.from_numpy(self._first_rows).to(self._device)
        for images, labels, component, example in loader:
            k = component.to(self._device, non_blocking=True)
            rows = first_row[k] + example.to(self._device, non_blocking=True)
            scale = ((high - low) / 255)[k].view(-1, 1, 1, 1)
            x = images.to(self._device, non_blocking=True) * scale + low[k].view(-1, 1, 1, 1)
            yield x, labels.to(self._device, non_blocking=True), rows


DECODING_WORKERS = min(4, len(os.sched_getaffinity(0)))


class _StreamedExamples(torch.utils.data.Dataset[tuple[Tensor, int, int, int]]):
    """By position in the stream: image, label of the head, component, example. Used in decoding workers."""

    def __init__(self, stream: Stream, splits: Sequence[object], offsets: Sequence[int]) -> None:
        self._stream, self._splits, self._offsets = stream, splits, offsets

    def __getitem__(self, position: int) -> tuple[Tensor, int, int, int]:
        k, example = int(self._stream.component[position]), int(self._stream.example[position])
        image, label = self._splits[k][example]  # type: ignore[index]
        return image, label + self._offsets[k], k, example

    def __len__(self) -> int:
        return len(self._stream)


_ON_DEVICE: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}  # the source is kept so that its id stays its own


def on_device(source: Tensor, device: torch.device) -> Tensor:
    """`source` on the device, uploaded once per process; on a CPU it is the memory-mapped original."""
    if device.type == "cpu":
        return source
    key = (source.data_ptr(), str(device))
    if key not in _ON_DEVICE:
        _ON_DEVICE[key] = (source, source.to(device))
    return _ON_DEVICE[key][1]


def to_float(images: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Bytes as the floats that they stand for: low + (high - low) * byte / 255."""
    low, high = value_range
    return images.to(torch.float32).mul_((high - low) / 255).add_(low)
