"""What examples does a component have? Images and labels, split, selected and ready in this machine's cache.

A component is a dataset of the catalogue, some of its classes, and an image shape. It is decoded once per
machine, into arrays that every process maps into its memory:

    <cache>/components/<key>/  facts.json  train_images.npy  train_labels.npy  validation_...  test_...

Of constructed data it also holds what each image was made from: train_attribute_<name>.npy, and so on.

The key names the source and the files it was read from. `content` names what was read: results depend on it,
and it is the same on every machine that has the same data. Of pictures that are too many to decode beforehand it
names files, sizes and labels only.

The splits: `test` is the dataset's own test split, and `validation` the last tenth of its training split in
an order that is the same for every component of the dataset. That order precedes the choice of classes, so
components with different classes of one dataset agree about what is training data, as nearly as a tenth of each
allows; components with different `validation_examples` do not.

Importing this module, `known` and `default_shape` need neither torch nor a dataset's files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from trainables import lazy
from trainables.catalogue import (
    CATALOGUE,
    Dataset,
    Option,
    data_root,
    declared_shape,
    find,
    fingerprint,
    locate,
    options_of,
    request_for,
)
from trainables.draws import permutation
from trainables.reading import (
    DataError,
    Examples,
    Images,
    Labels,
    Pictures,
    Raw,
    Shape,
    reshaped,
    wanted_classes,
)
from trainables.spec import Component, Source, as_json, derive_seed, digest_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor
else:
    np = lazy.Module("numpy")

__all__ = [
    "CATALOGUE",
    "ComponentData",
    "DataError",
    "Dataset",
    "Option",
    "Split",
    "cache_root",
    "data_root",
    "default_shape",
    "known",
    "load",
    "prepare",
]

log = logging.getLogger(__name__)

CACHE_FORMAT = 2  # raised whenever an entry is written in another way or with other content
SPLITS = ("train", "validation", "test")
CHUNK_BYTES = 2**25  # of images that are held in memory at a time


def cache_root() -> Path:
    """The folder for what can be computed again: $BOTTLENECK_CACHE, or `bottleneck` in the user's cache."""
    if value := os.environ.get("BOTTLENECK_CACHE"):
        return Path(value).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "bottleneck"


def default_shape(source: Source) -> Shape:
    """(channels, height, width) of the component's images; only code of the user may have to be run for it.

    Raises:
        ValueError: the source is impossible.
    """
    _check(source)
    return declared_shape(source) or prepare(source).image_shape


def known(source: Source) -> Component | None:
    """The component if this machine's cache has it, found in milliseconds; None if it is to be prepared.

    Raises:
        ValueError: the source is impossible.
        DataError: the dataset's files are missing.
    """
    facts = _facts(_entry(source))
    return None if facts is None else _component(source, facts)


def prepare(source: Source) -> Component:
    """The component; what this machine's cache lacks is decoded into it, by one process at a time.

    Raises:
        ValueError: the source is impossible.
        DataError: data is missing, damaged or has no example of a class.
    """
    return _component(source, _prepared(source)[1])


def load(component: Component) -> ComponentData:
    """The examples of a component, the same ones as on the machine where it was planned.

    Raises:
        DataError: this machine's data is missing, damaged or other data.
    """
    entry, facts = _prepared(component.source)
    if facts["content"] != component.content:
        raise DataError(
            f"the data of {component.source.dataset!r} on this machine differs from what was planned with: "
            f"its content is {facts['content'][:12]} and not {component.content[:12]}; copy the same files "
            "here, or plan again"
        )
    pictures = None if facts["resident"] else locate(component.source, options_of(component.source))
    train, validation, test = (Split(entry, name, component.image_shape, pictures) for name in SPLITS)
    low, high = facts["value_range"]
    return ComponentData(
        component=component,
        train=train,
        validation=validation,
        test=test,
        value_range=(low, high),
        attributes=facts["attributes"],
    )


@dataclass(frozen=True, kw_only=True)
class ComponentData:
    """The examples of a component.

    With the value range (low, high), a pixel u stands for low + (high - low) * u / 255.
    """

    component: Component
    train: Split
    validation: Split
    test: Split
    value_range: tuple[float, float]
    attributes: Mapping[str, int] = field(default_factory=dict)  # of constructed data: how many values each may have

    def difficulty(self) -> NDArray[np.float64]:
        """(num_train,) how atypical a training example is of its class; larger is harder.

        The distance of its pixels to the mean of its class, divided by the distance to the nearest mean of
        another class: above 1, a nearest-mean classifier gets it wrong. With one class only, the distance
        itself. Rounded to nine decimals, so that equal images are equally hard on every processor.

        Raises:
            ValueError: the images are streamed.
        """
        if not self.train.resident:
            raise ValueError(
                f"difficulty of {self.component.source.dataset!r}: its pictures are decoded when they are "
                "shown; set its option `resident` to true"
            )
        images, labels = self.train.images.numpy(), self.train.labels.numpy()
        chunks = list(_chunks(len(labels), images[0].nbytes * 8))
        classes, position = np.unique(labels, return_inverse=True)
        sums = np.zeros((len(classes), images[0].size), np.int64)  # (C, D); integers, so that order does not matter
        for chunk in chunks:
            for c in range(len(classes)):
                sums[c] += images[chunk][position[chunk] == c].reshape(-1, sums.shape[1]).sum(0, dtype=np.int64)
        means = sums / np.bincount(position)[:, None]
        centre = means.mean(0)  # distances from here: nothing large cancels below
        means -= centre
        difficulty = np.empty(len(labels))
        for chunk in chunks:
            pixels = images[chunk].reshape(-1, len(centre)) - centre
            squares = (pixels**2).sum(1)[:, None] - 2 * pixels @ means.T + (means**2).sum(1)  # (n, C)
            distances = np.sqrt(squares.clip(0))
            own = (np.arange(len(distances)), position[chunk])
            to_own = distances[own]
            distances[own] = np.inf
            nearest = distances.min(1) if len(classes) > 1 else np.ones(len(distances))
            difficulty[chunk] = to_own / np.maximum(nearest, 1e-9)
        return difficulty.round(9)


@dataclass(frozen=True)
class Split:
    """Some examples of a component, mapped into memory: all processes of a machine share one copy.

    Pickled, it is the name of its files, so it can be sent to the workers of a DataLoader.
    """

    entry: Path
    name: str  # one of SPLITS
    shape: Shape
    pictures: Path | None  # below which the picture files lie; None: the images are resident

    @property
    def resident(self) -> bool:
        """Whether all images lie decoded in the cache."""
        return self.pictures is None

    @cached_property
    def labels(self) -> Tensor:
        """(N,) int64."""
        return _mapped(self.entry / f"{self.name}_labels.npy")

    def attribute(self, name: str) -> Tensor:
        """(N,) int64: what each image was made from, from 0 to below the number in `ComponentData.attributes`.

        Raises:
            ValueError: the component has no such attribute; the message lists those it has.
        """
        path = self.entry / f"{self.name}_attribute_{name}.npy"
        if not path.exists():
            prefix = f"{self.name}_attribute_"
            known = sorted(other.stem.removeprefix(prefix) for other in self.entry.glob(f"{prefix}*.npy"))
            raise ValueError(f"there is no attribute {name!r}; this component has {', '.join(known) or 'none'}")
        return _mapped(path)

    @cached_property
    def images(self) -> Tensor:
        """(N, C, H, W) uint8. Of a streamed component, `Pictures`: a length, and indexing by arrays only."""
        if self.pictures is None:
            return _mapped(self.entry / f"{self.name}_images.npy")
        names = np.load(self.entry / f"{self.name}_names.npy", mmap_mode="r")
        return cast("Tensor", Pictures(self.pictures, names, self.shape))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """The image (C, H, W), uint8, and the label of one example."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        images, labels = self.gather([index])
        return images[0], int(labels[0])

    def gather(self, indices: Sequence[int] | NDArray[np.integer] | Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, C, H, W), uint8, and labels (n,), int64, of the examples at these positions.

        Raises:
            DataError: a streamed picture cannot be decoded.
        """
        import torch

        index = indices if isinstance(indices, torch.Tensor) else torch.from_numpy(np.array(indices, np.int64))
        if self.pictures is None:
            return self.images[index], self.labels[index]
        pictures = cast(Pictures, self.images)
        return torch.from_numpy(pictures[index.numpy()]), self.labels[index]

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


# The cache ----------------------------------------------------------------------------------------


def _entry(source: Source) -> Path:
    """The folder of the cache for the source as its files are now."""
    _check(source)
    trace = fingerprint(request_for(source, _raw_of))
    return cache_root() / "components" / digest_of("component", CACHE_FORMAT, source.digest, trace)[:40]


def _facts(entry: Path) -> dict[str, Any] | None:
    """What is known of a whole entry; None if there is none, or if a file of it is missing or cut short."""
    try:
        facts: dict[str, Any] = json.loads((entry / "facts.json").read_bytes())
        whole = all((entry / name).stat().st_size == size for name, size in facts["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return facts if whole else None


def _prepared(source: Source) -> tuple[Path, dict[str, Any]]:
    entry = _entry(source)
    facts = _facts(entry)
    if facts is not None:
        return entry, facts
    from filelock import FileLock

    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(entry.with_suffix(".lock")):
            facts = _facts(entry)  # another process may have been at work
            return entry, _make(source, entry) if facts is None else facts
    except OSError as error:
        raise DataError(
            f"the cache {cache_root()} cannot be written: {error.strerror or error}; make room there, or set "
            "BOTTLENECK_CACHE to another folder"
        ) from error


def _make(source: Source, entry: Path) -> dict[str, Any]:
    """Read the source and write its entry, which exists when all of it is there."""
    for leftover in entry.parent.glob(f".{entry.name}.*"):  # of a process that was killed: we hold the lock
        shutil.rmtree(leftover, ignore_errors=True)
    raw = find(source.dataset).read(request_for(source, _raw_of))
    part = entry.with_name(f".{entry.name}.{uuid.uuid4().hex[:8]}")
    part.mkdir()
    try:
        facts = _write(source, raw, part)
        shutil.rmtree(entry, ignore_errors=True)  # damaged
        part.rename(entry)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    log.info("prepared %s: %s images of %s", source.dataset, facts["num_examples"], facts["image_shape"])
    return facts


def _write(source: Source, raw: Raw, folder: Path) -> dict[str, Any]:
    parts = divide(source, raw)
    shape = _image_shape(source, raw)
    numbers = dict(zip(SPLITS, (len(labels) for _, _, labels in parts), strict=True))
    form = "resident" if raw.resident else "streamed"
    content = hashlib.sha256(json.dumps([form, "uint8", numbers, shape, raw.value_range]).encode())
    for name, (images, indices, labels) in zip(SPLITS, parts, strict=True):
        np.save(folder / f"{name}_labels.npy", labels)
        for attribute, values in _read_for(name, raw).attributes.items():
            np.save(folder / f"{name}_attribute_{attribute}.npy", values[indices])
        content.update(labels.astype("<i8").tobytes())
        if not raw.resident:
            assert isinstance(images, Pictures)
            np.save(folder / f"{name}_names.npy", images.names[indices])
            for picture in images.names[indices]:
                size = (images.root / os.fsdecode(picture)).stat().st_size
                content.update(b"%s\0%d\0" % (picture, size))
            continue
        with (folder / f"{name}_images.npy").open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(labels), *shape)}
            np.lib.format.write_array_header_1_0(file, header)
            for chunk in _chunks(len(labels), math.prod(shape)):
                block = reshaped(images[indices[chunk]], shape).tobytes()
                content.update(block)
                file.write(block)
    facts = {
        "source": as_json(source),  # for people
        "content": content.hexdigest(),
        "num_classes": int(_new_labels(source, raw).max()) + 1,
        "num_examples": numbers,
        "image_shape": shape,
        "value_range": raw.value_range,
        "resident": raw.resident,
        "attributes": raw.attributes,
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    }
    (folder / "facts.json").write_text(json.dumps(facts, indent=1))
    return cast("dict[str, Any]", json.loads(json.dumps(facts)))


def _component(source: Source, facts: dict[str, Any]) -> Component:
    return Component(
        source=source,
        content=facts["content"],
        num_classes=facts["num_classes"],
        num_train=facts["num_examples"]["train"],
        num_validation=facts["num_examples"]["validation"],
        num_test=facts["num_examples"]["test"],
        image_shape=tuple(facts["image_shape"]),
    )


def _raw_of(source: Source) -> Raw:
    """A prepared component as the material of another one."""
    entry, facts = _prepared(source)
    # Streamed pictures are refused by whoever asked, so what is given for them does not matter.
    kind = "images" if facts["resident"] else "labels"
    train, validation, test = (
        Examples(
            np.load(entry / f"{name}_{kind}.npy", mmap_mode="r"),
            np.load(entry / f"{name}_labels.npy", mmap_mode="r"),
        )
        for name in SPLITS
    )
    low, high = facts["value_range"]
    return Raw(
        train=train,
        validation=validation,
        test=test,
        num_classes=facts["num_classes"],
        value_range=(low, high),
        resident=facts["resident"],
    )


def _mapped(path: Path) -> Tensor:
    import torch

    # Copy on write: torch warns of arrays that cannot be written to, and no write reaches the file.
    return torch.from_numpy(np.load(path, mmap_mode="c"))


# Selection ----------------------------------------------------------------------------------------

Positions: TypeAlias = "NDArray[np.int64]"
Part: TypeAlias = "tuple[Images | Pictures, Positions, Labels]"  # images, which of them (N,), their new labels (N,)


def divide(source: Source, raw: Raw) -> tuple[Part, Part, Part]:
    """Training, validation and test examples of a component, as positions in what was read.

    Raises:
        ValueError: a class does not exist, there are not as many examples, or the new labels have gaps.
        DataError: the data is damaged, or has no example of a class.
    """
    new_label = _new_labels(source, raw)
    own = {"train": raw.train, "validation": raw.validation, "test": raw.test}
    kept = {name: _kept(source, raw, name, part, new_label) for name, part in own.items() if part is not None}
    if raw.validation is None:
        kept["train"], kept["validation"] = _parted(source, kept["train"])
    parts: list[Part] = []
    for name in SPLITS:
        asked, examples = getattr(source, f"{name}_examples"), _read_for(name, raw)
        if asked is not None and asked > len(kept[name]):
            raise ValueError(
                f"dataset {source.dataset!r}: {name}_examples is {asked}; of these classes it has "
                + ", ".join(f"{len(kept[each])} {each}" for each in SPLITS)
                + " examples"
            )
        chosen = kept[name][:asked]
        parts.append((examples.images, chosen, new_label[examples.labels[chosen]]))
    train, validation, test = parts
    return train, validation, test


def _read_for(split: str, raw: Raw) -> Examples:
    """What was read that the split's examples are positions in."""
    validation = raw.train if raw.validation is None else raw.validation
    return {"train": raw.train, "validation": validation, "test": raw.test}[split]


def _parted(source: Source, kept: Positions) -> tuple[Positions, Positions]:
    """Positions to train on and to validate on. Those are the last ones, so the first to train on stay the same."""
    count = source.validation_examples or max(1, len(kept) // 10)
    if count >= len(kept):
        raise ValueError(
            f"dataset {source.dataset!r}: {count} examples for validation; they come out of the training "
            f"split, which has {len(kept)} of these classes, and one or more must be left"
        )
    return kept[: len(kept) - count], kept[len(kept) - count :]


def _new_labels(source: Source, raw: Raw) -> Labels:
    """(classes of the dataset,) the component's label of each class; -1: left out."""
    classes = wanted_classes(source, raw.num_classes, raw.class_names)
    new = source.relabel if source.relabel is not None else tuple(range(len(classes)))
    if len(new) != len(classes) or set(new) != set(range(len(set(new)))):
        raise ValueError(
            f"dataset {source.dataset!r}: relabel is {list(new)} for {len(classes)} classes; it gives each "
            "class a label, and labels are 0, 1, ... without a gap"
        )
    table = np.full(raw.num_classes, -1, np.int64)
    table[list(classes)] = new
    return table


def _kept(source: Source, raw: Raw, name: str, part: Examples, new_label: Labels) -> Positions:
    """Positions of the examples of the wanted classes, in the split's own order."""
    labels = part.labels
    if len(part.images) != len(labels):
        raise DataError(
            f"{source.dataset}: {len(part.images)} images and {len(labels)} labels in the {name} split; the "
            "files are damaged or do not belong together, so get them again"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < raw.num_classes):
        strange = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(
            f"{source.dataset}: label {strange} in the {name} split; labels are 0 to {raw.num_classes - 1}, "
            "so the files are damaged, or other files"
        )
    present = np.bincount(labels, minlength=raw.num_classes) > 0
    if (absent := np.flatnonzero((new_label >= 0) & ~present)).size:
        named = f" ({raw.class_names[absent[0]]})" if raw.class_names else ""
        raise DataError(
            f"{source.dataset}: the {name} split has no example of class {absent[0]}{named}; leave the class "
            "out with `classes`"
        )
    # The training split's order has the plain name; it also decides what becomes validation.
    purpose = () if name == "train" else (name,)
    order = permutation(derive_seed(0, "split", source.dataset, *purpose), len(labels))
    return order[new_label[labels[order]] >= 0]


def _image_shape(source: Source, raw: Raw) -> Shape:
    images = raw.train.images
    channels, height, width = images.shape if isinstance(images, Pictures) else images.shape[1:]
    if source.image_size is not None:
        height, width = source.image_size
    return source.channels or channels, height, width


def _check(source: Source) -> None:
    """Raises ValueError for what no dataset can be asked for."""
    for name in SPLITS:
        asked = getattr(source, f"{name}_examples")
        if asked is not None and asked < 1:
            raise ValueError(f"dataset {source.dataset!r}: {name}_examples is {asked}; ask for one or more")
    if source.image_size is not None and min(source.image_size) < 1:
        raise ValueError(
            f"dataset {source.dataset!r}: image_size is {source.image_size}; height and width are positive"
        )
    if source.channels not in (None, 1, 3):
        raise ValueError(f"dataset {source.dataset!r}: channels is {source.channels}; it is 1 (grey) or 3 (colour)")
    declared_shape(source)


def _chunks(count: int, bytes_each: int) -> Iterator[slice]:
    """Slices of `count` examples that take CHUNK_BYTES each."""
    step = max(1, CHUNK_BYTES // max(1, bytes_each))
    return (slice(start, start + step) for start in range(0, count, step))
