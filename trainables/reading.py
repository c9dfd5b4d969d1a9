"""What do a dataset's files hold? One function per format: images and labels as they come, nothing selected.

Every reader takes a `Request` and returns a `Raw`, or raises DataError, one line that names the file. Which
reader serves which dataset is the table in `catalogue.py`; splits, classes, sizes and the cache are
`components.py`. torch, torchvision, scikit-learn and scipy are imported by the readers that need them.
"""

from __future__ import annotations

import codecs
import itertools
import math
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from trainables import lazy, plugins
from trainables.draws import permutation, raw, uniform
from trainables.errors import UserError
from trainables.mixture import apportion
from trainables.spec import Source, derive_seed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.Module("numpy")

Images: TypeAlias = "NDArray[np.uint8]"  # (N, C, H, W)
Labels: TypeAlias = "NDArray[np.int64]"  # (N,)
Shape = tuple[int, int, int]  # (channels, height, width)

PIXEL_RANGE = (-1.0, 1.0)  # what 0 and 255 stand for in an ordinary image
PICTURE_FILES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
STREAMED_ABOVE = 4 * 2**30  # bytes of decoded pictures; torchvision-sized sets stay below, ImageNet does not
CONSTRUCTED_SIZES = (
    20_000,
    2_000,
    5_000,
)  # training, validation and test examples where the source names none

VIEWS = ("left", "right")  # of a domino
RED_AND_GREEN = ((255, 0, 0), (0, 255, 0))
# Paul Tol's muted scheme and its grey (Colour schemes, SRON technical note, 2021): told apart by colour-blind readers.
MUTED_COLOURS = (
    (51, 34, 136),  # indigo
    (136, 204, 238),  # cyan
    (68, 170, 153),  # teal
    (17, 119, 51),  # green
    (153, 153, 51),  # olive
    (221, 204, 119),  # sand
    (204, 102, 119),  # rose
    (136, 34, 85),  # wine
    (170, 68, 153),  # purple
    (221, 221, 221),  # pale grey
)


class DataError(UserError):
    """Data is missing, damaged or not what is needed: what was found, where, and what to do, in one line."""


@dataclass(frozen=True)
class Pictures:
    """Picture files that are decoded when they are asked for."""

    root: Path
    names: NDArray[np.bytes_]  # (N,) paths below the root
    shape: Shape  # of every decoded picture

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, indices: NDArray[np.int64]) -> Images:
        """(n, C, H, W) the pictures at these positions. Raises DataError for one that cannot be decoded."""
        images = np.empty((len(indices), *self.shape), np.uint8)
        for image, name in zip(images, self.names[indices], strict=True):
            image[:] = decode(self.root / os.fsdecode(name), self.shape)
        return images


@dataclass(frozen=True)
class Examples:
    """Images with their labels."""

    images: Images | Pictures
    labels: Labels
    attributes: Mapping[str, Labels] = field(default_factory=dict)  # what each image was made from, by name

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A dataset as its files hold it."""

    train: Examples
    test: Examples
    validation: Examples | None = None  # None: to be taken from the training split
    num_classes: int
    class_names: tuple[str, ...] = ()  # where the files name them
    value_range: tuple[float, float] = PIXEL_RANGE
    resident: bool = True  # False: the pictures are decoded anew whenever they are asked for
    attributes: Mapping[str, int] = field(default_factory=dict)  # how many values each attribute may have


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be read."""

    source: Source
    options: Mapping[str, Any]  # every option of the dataset
    folder: Path  # where its files lie; of no meaning to a dataset without files
    shape: Shape | None  # of the component's images; None: the data tells
    prepared: Callable[[Source], Raw]  # another component, ready for use: its images are memory-mapped

    def sizes(self) -> tuple[int, int, int]:
        """Training, validation and test examples to construct."""
        source = self.source
        asked = (source.train_examples, source.validation_examples, source.test_examples)
        train, validation, test = (
            default if n is None else n for n, default in zip(asked, CONSTRUCTED_SIZES, strict=True)
        )
        return train, validation, test


def wanted_classes(source: Source, num_classes: int, names: Sequence[str] = ()) -> tuple[int, ...]:
    """The labels of the dataset that the source keeps, in its order.

    Raises:
        ValueError: the dataset has no such class, or one is named twice.
    """
    classes = tuple(range(num_classes)) if source.classes is None else source.classes
    if unknown := [c for c in classes if not 0 <= c < num_classes]:
        listed = ", ".join(f"{i} ({name})" for i, name in enumerate(names)) or f"0 to {num_classes - 1}"
        raise ValueError(f"dataset {source.dataset!r} has no class {unknown[0]}; its classes are {listed}")
    if not classes or len(set(classes)) < len(classes):
        raise ValueError(f"dataset {source.dataset!r}: classes are {list(classes)}; name one or more, each once")
    return classes


# Files that torchvision knows ---------------------------------------------------------------------


def read_idx(request: Request, names: Sequence[str], *, first_label: int = 0, transposed: bool = False) -> Raw:
    """MNIST and its relatives.

    Args:
        request: what is to be read.
        names: images and labels of the training split, then of the test split; options in braces.
        first_label: the number that stands for class 0.
        transposed: rows and columns are exchanged in the files, and brought back here.
    """
    from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

    arrays = []
    for name in names:
        path = request.folder / name.format(**request.options)
        with reading(path):
            array = read_sn3_pascalvincent_tensor(str(path), strict=False).numpy()
            if array.ndim != (3 if "images" in path.name else 2 if "idx2" in path.name else 1):
                raise ValueError(f"an array with {array.ndim} dimensions")
        arrays.append(array)
    images, labels = arrays[::2], arrays[1::2]
    train, test = (
        # QMNIST has eight columns of labels; the first one is the digit.
        _examples(
            i.swapaxes(1, 2) if transposed else i,
            (k if k.ndim == 1 else k[:, 0]).astype(np.int64) - first_label,
        )
        for i, k in zip(images, labels, strict=True)
    )
    return Raw(train=train, test=test, num_classes=int(train.labels.max()) + 1)


def read_emnist(request: Request, names: Sequence[str]) -> Raw:
    """EMNIST, upright: its files hold every character mirrored along the diagonal."""
    # The letters are numbered from 1, all other splits from 0.
    first_label = 1 if request.options["split"] == "letters" else 0
    return read_idx(request, names, first_label=first_label, transposed=True)


def read_cifar(request: Request, kind: str, *, labels: str = "labels", verified: bool = True) -> Raw:
    """CIFAR-10 and CIFAR-100 in their Python version.

    Nothing but arrays, lists and strings is unpickled, so a file from a doubtful place can do no harm.

    Args:
        request: what is to be read.
        kind: class of torchvision.datasets that lists the files and their MD5 sums.
        labels: key of the labels in the files.
        verified: the files must be the published ones.
    """
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    listed = getattr(datasets, kind)
    if request.options.get("coarse"):
        labels = "coarse_labels"

    def split(files: Sequence[tuple[str, str]]) -> Examples:
        batches = []
        for name, md5 in files:
            path = request.folder / listed.base_folder / name
            with reading(path):
                if verified and not check_integrity(str(path), md5):
                    raise ValueError(f"its MD5 sum is not the published {md5}")
                with path.open("rb") as file:
                    batch = _ArraysOnly(file, encoding="latin1").load()
                batches.append((batch["data"].reshape(-1, 3, 32, 32), np.asarray(batch[labels], np.int64).reshape(-1)))
        return _examples(np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches]))

    train, test = split(listed.train_list), split(listed.test_list)
    return Raw(train=train, test=test, num_classes={"labels": 10, "coarse_labels": 20}.get(labels, 100))


def read_usps(request: Request) -> Raw:
    from torchvision.datasets import USPS

    splits = []
    for name, train in (("usps.bz2", True), ("usps.t.bz2", False)):
        with reading(request.folder / name):
            read = USPS(request.folder, train=train, download=False)
            splits.append(_examples(read.data, read.targets))
    return Raw(train=splits[0], test=splits[1], num_classes=10)


def read_semeion(request: Request) -> Raw:
    """A quarter of it, drawn once and for all, is the test split."""
    from torchvision.datasets import SEMEION

    with reading(request.folder / "semeion.data"):
        read = SEMEION(request.folder, download=False)
        examples = _examples(read.data, read.labels)
    train, test = held_out(examples, round(len(examples) / 4), "semeion")
    return Raw(train=train, test=test, num_classes=10)


def read_svhn(request: Request) -> Raw:
    from torchvision.datasets import SVHN

    splits = []
    for split in ("train", "test"):
        with reading(request.folder / f"{split}_32x32.mat"):
            read = SVHN(request.folder, split=split, download=False)
            splits.append(_examples(read.data, read.labels))
    return Raw(train=splits[0], test=splits[1], num_classes=10)


def read_stl10(request: Request) -> Raw:
    """The labelled images. The 2.6 GB without labels are neither needed nor looked for."""
    from torchvision.datasets import STL10

    labelled = type("Labelled", (STL10,), {"train_list": STL10.train_list[:2]})
    splits = []
    for split in ("train", "test"):
        with reading(request.folder / STL10.base_folder):
            read = labelled(request.folder, split=split, download=False)
            splits.append(_examples(read.data, read.labels))
    return Raw(train=splits[0], test=splits[1], num_classes=10)


def read_digits(request: Request) -> Raw:
    """scikit-learn's digits, grey levels 0 to 16 spread over 0 to 255; a third is the test split."""
    from sklearn.datasets import load_digits

    read = load_digits()
    examples = _examples(np.rint(read.images * 255 / 16).astype(np.uint8), read.target)
    train, test = held_out(examples, 597, "digits")
    return Raw(train=train, test=test, num_classes=10)


def held_out(examples: Examples, num_test: int, dataset: str) -> tuple[Examples, Examples]:
    """Training and test split of a dataset that has none: the same in every process."""
    order = permutation(derive_seed(0, "split", dataset, "held out"), len(examples))
    return _taken(examples, order[num_test:]), _taken(examples, order[:num_test])


# Folders of pictures ------------------------------------------------------------------------------


def read_pictures(request: Request, tests: Sequence[str]) -> Raw:
    """A folder per class, in a folder per split.

    A picture is cropped at its centre to the wanted aspect and then resized. Without folders of splits, a
    fifth of each class, drawn once and for all, is the test split.
    """
    assert request.shape is not None
    parts = picture_parts(request.folder, tests)
    names, labels, classes = _list_pictures(parts[0], request.folder)
    train = Examples(Pictures(request.folder, names, request.shape), labels)
    if len(parts) == 1:
        train, test = _held_out_of_each_class(train, request.source.dataset)
    else:
        names, labels, classes_of_test = _list_pictures(parts[1], request.folder)
        if surplus := sorted(set(classes_of_test) - set(classes)):
            raise DataError(f"{parts[1]} has a class {surplus[0]!r} that {parts[0]} has not")
        position = np.asarray([classes.index(name) for name in classes_of_test], np.int64)
        test = Examples(Pictures(request.folder, names, request.shape), position[labels])
    resident = request.options["resident"]
    if resident == "auto":
        resident = (len(train) + len(test)) * math.prod(request.shape) <= STREAMED_ABOVE
    return Raw(train=train, test=test, num_classes=len(classes), class_names=classes, resident=resident)


def picture_parts(folder: Path, tests: Sequence[str]) -> list[Path]:
    """The folders that hold a folder per class: of the training and the test split, or of all pictures.

    Raises:
        DataError: there is a training split and none of `tests`, the names that a test split may have.
    """
    if not (folder / "train").is_dir():
        return [folder]
    for name in tests:
        if (folder / name).is_dir():
            return [folder / "train", folder / name]
    raise DataError(f"{folder} has a folder `train` and no `{'` or `'.join(tests)}`; add it, with a folder per class")


def class_folders(part: Path) -> list[Path]:
    """The folders of the classes, sorted by name."""
    with os.scandir(part) as entries:  # which knows folders without a look at each
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    return [part / name for name in names]


def decode(path: Path, shape: Shape) -> Images:
    """(C, H, W) one picture file. Raises DataError if it is not a picture or damaged."""
    from PIL import Image, ImageOps

    channels, height, width = shape
    with reading(path), Image.open(path) as file:
        picture = file.convert("L" if channels == 1 else "RGB")
        # Pillow's resampling is integer arithmetic and the same on every processor; torchvision's is not.
        fitted = ImageOps.fit(picture, (width, height), method=Image.Resampling.BILINEAR)
        return np.asarray(fitted, np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def reshaped(images: Images, shape: Shape) -> Images:
    """Images (N, C, H, W) in another shape: grey is repeated, colour becomes luma, and planes are resampled.

    Raises:
        ValueError: the number of channels is neither kept nor changed between 1 and 3.
    """
    from PIL import Image

    channels, height, width = shape
    if images.shape[1] == 3 and channels == 1:
        red, green, blue = images.astype(np.uint32).swapaxes(0, 1)
        # ITU-R 601 with 16-bit weights, as Pillow does it.
        images = ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).astype(np.uint8)[:, None]
    elif images.shape[1] == 1 and channels == 3:
        images = np.repeat(images, 3, axis=1)
    elif images.shape[1] != channels:
        raise ValueError(f"images with {images.shape[1]} channels cannot be given {channels}")
    if images.shape[2:] == (height, width):
        return images
    resized = np.empty((len(images), *shape), np.uint8)
    for image, result in zip(images, resized, strict=True):
        for plane, target in zip(image, result, strict=True):
            target[:] = Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR)
    return resized


def _list_pictures(part: Path, root: Path) -> tuple[NDArray[np.bytes_], Labels, tuple[str, ...]]:
    folders = class_folders(part)
    names: list[bytes] = []
    counts = []
    for folder in folders:
        found = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICTURE_FILES)
        if not found:
            raise DataError(f"{folder} holds no pictures ({', '.join(PICTURE_FILES)})")
        prefix = folder.relative_to(root)
        names += [os.fsencode(prefix / name) for name in found]
        counts.append(len(found))
    if not folders:
        raise DataError(f"{part} holds no folders; it needs one per class, with the pictures in it")
    return (
        np.asarray(names),
        np.repeat(np.arange(len(folders)), counts),
        tuple(folder.name for folder in folders),
    )


def _held_out_of_each_class(examples: Examples, dataset: str) -> tuple[Examples, Examples]:
    order = permutation(derive_seed(0, "split", dataset, "held out"), len(examples))
    held = np.zeros(len(examples), bool)
    for label in np.unique(examples.labels):
        of_class = order[examples.labels[order] == label]
        held[of_class[: max(1, len(of_class) // 5)]] = True
    return _taken(examples, np.flatnonzero(~held)), _taken(examples, np.flatnonzero(held))


# Code of the user ---------------------------------------------------------------------------------

PLUGIN_EXPECTED = (
    'a mapping with "train" and "test", each (images, labels): images uint8 (N, C, H, W) or (N, H, W), '
    'labels integers (N,) from 0; optionally "validation" alike, and "value_range": (low, high)'
)


def read_plugin(request: Request) -> Raw:
    """What the attribute of `python:module:attribute` returns when called with the options, or is."""
    name = request.source.dataset
    try:
        found = plugins.load("dataset", name)
        returned = found(**request.options) if callable(found) else found
    except plugins.PluginError as error:
        raise DataError(str(error)) from error
    except Exception as error:  # the code is not ours and may raise anything
        raise DataError(f"{name}: {plugins.said(error)}") from error
    names = ("train", "test", "validation", "value_range")
    of = returned.get if isinstance(returned, Mapping) else partial(_attribute, returned)
    entry: dict[str, Any] = {name: of(name) for name in names}
    if entry["train"] is None or entry["test"] is None:
        raise DataError(f"{name} returned {_described(returned)}; expected {PLUGIN_EXPECTED}")
    splits = {key: _plugin_split(f"{name}: {key}", entry[key]) for key in names[:3] if entry[key] is not None}
    return Raw(
        train=splits["train"],
        test=splits["test"],
        validation=splits.get("validation"),
        num_classes=int(splits["train"].labels.max()) + 1,
        value_range=_plugin_range(name, entry["value_range"]),
    )


def _attribute(value: Any, name: str) -> Any:
    return getattr(value, name, None)


def _plugin_split(where: str, pair: Any) -> Examples:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise DataError(f"{where} is {_described(pair)}; expected {PLUGIN_EXPECTED}")
    images, labels = np.asarray(pair[0]), np.asarray(pair[1])
    least = f" from {labels.min()}" if labels.dtype.kind in "iu" and labels.size else ""
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or labels.dtype.kind not in "iu"
        or labels.shape != images.shape[:1]
        or images.size == 0
        or labels.min() < 0
    ):
        raise DataError(
            f"{where} is images {images.dtype} {images.shape} and labels {labels.dtype} "
            f"{labels.shape}{least}; expected {PLUGIN_EXPECTED}"
        )
    return _examples(images, labels)


def _plugin_range(name: str, value: Any) -> tuple[float, float]:
    if value is None:
        return PIXEL_RANGE
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise DataError(f"{name}: value_range is {value!r}; expected two finite numbers (low, high)")
    return low, high


# Constructed data ---------------------------------------------------------------------------------


def read_dominoes(request: Request) -> Raw:
    """Two views side by side, each a noisy image of a class; an uninformative one shows a random class.

    Labels are balanced. Each split is made of the images of that split of the base datasets, so what the test
    shows was never trained on. Noise is drawn once per example. With a `correlation` below 1, the left of two
    informative views shows the label's class that often and otherwise one of the others, all equally likely.

    The classes of each view can be chosen, and then stand for the dominoes' classes in the order given.

    Attributes: `left` and `right`, the class of the dominoes that the view shows.

    Raises:
        ValueError: a view is no ordinary dataset, the views have different numbers of classes, or a correlation is
            asked for that they cannot have.
        DataError: a split of a dataset has no image of a class.

    Source: after Shah et al. (2020), arXiv:2006.07710; correlations after Kirichenko et al. (2023),
        arXiv:2204.02937.
    """
    options = request.options
    bases = {side: _base(request, "dominoes", side) for side in VIEWS}
    left, right = (len(_classes_of_view(options, side, base)) for side, base in bases.items())
    if left != right:
        raise ValueError(
            f"dominoes: both views need the same number of classes; {options['left']!r} has {left} and "
            f"{options['right']!r} has {right}; choose some with `left_classes` and `right_classes`"
        )
    if options["correlation"] != 1 and (options["informative"] != "both" or left == 1):
        raise ValueError(
            f"dominoes: correlation is {options['correlation']:g} with informative {options['informative']!r} and "
            f"{left} classes; below 1 it needs two informative views and two classes or more"
        )
    value_range = (-3.0, 3.0) if options["noise_left"] or options["noise_right"] else PIXEL_RANGE
    train, validation, test = (
        _dominoes(request, bases, split, count, value_range)
        for split, count in zip(("train", "validation", "test"), request.sizes(), strict=True)
    )
    return Raw(
        train=train,
        validation=validation,
        test=test,
        num_classes=left,
        value_range=value_range,
        attributes=dict.fromkeys(VIEWS, left),
    )


def domino_shape(left: Shape, right: Shape, *, stacked: bool = False) -> Shape:
    """Of two views side by side, or left above right, each brought to the size of the larger."""
    channels, height, width = (max(pair) for pair in zip(left, right, strict=True))
    return (channels, 2 * height, width) if stacked else (channels, height, 2 * width)


def listed_classes(text: str) -> tuple[int, ...]:
    """The classes that a text such as `0-4,8` lists, in its order; `4-0` counts down."""
    ranges = ([int(end) for end in part.split("-")] for part in text.split(","))
    return tuple(c for ends in ranges for c in _counted(ends[0], ends[-1]))


def _counted(first: int, last: int) -> range:
    return range(first, last + 1) if first <= last else range(first, last - 1, -1)


def _classes_of_view(options: Mapping[str, Any], side: str, base: Raw) -> Labels:
    """(C,) the class of the base dataset that the view shows for each class of the dominoes."""
    text = options[f"{side}_classes"]
    classes = None if text is None else listed_classes(text)
    return np.asarray(wanted_classes(Source(dataset=options[side], classes=classes), base.num_classes), np.int64)


def _base(request: Request, dataset: str, option: str) -> Raw:
    """The dataset that an option names, as the material of `dataset`."""
    base = request.prepared(Source(dataset=request.options[option]))
    if not base.resident or base.value_range != PIXEL_RANGE:
        raise ValueError(
            f"{dataset}: {option} is {request.options[option]!r}; it must be an ordinary set of images in memory"
        )
    return base


def _dominoes(
    request: Request, bases: Mapping[str, Raw], split: str, count: int, value_range: tuple[float, float]
) -> Examples:
    options = request.options
    informative, correlation, mark = options["informative"], float(options["correlation"]), options["mark"]
    # Draws differ between dominoes that differ in these. At their defaults they are not named: they came later.
    later = [f"correlation {correlation}"] if correlation != 1 else []
    later += [f"{side} {listed_classes(text)}" for side in VIEWS if (text := options[f"{side}_classes"]) is not None]
    later += [f"mark {float(mark)}"] if mark is not None else []

    def seed(*purpose: str) -> int:
        return derive_seed(0, "dominoes", options["left"], options["right"], informative, *later, split, *purpose)

    classes = {side: _classes_of_view(options, side, base) for side, base in bases.items()}
    num_classes = len(classes["left"])
    labels = _balanced(wanted_classes(request.source, num_classes), count)
    views, attributes = [], {}
    parts = {side: getattr(base, split) for side, base in bases.items()}
    shape = domino_shape(parts["left"].images.shape[1:], parts["right"].images.shape[1:])
    channels, height, width = shape[0], shape[1], shape[2] // 2
    for side, part in parts.items():
        shown = labels
        if informative not in (side, "both"):
            shown = (raw(seed(side, "class"), count) % np.uint64(num_classes)).astype(np.int64)
        elif side == "left" and correlation != 1:
            shown = _agreeing(labels, num_classes, correlation, seed(side, "agreement"), seed(side, "class"))
        of_base = classes[side][shown]
        if (absent := np.setdiff1d(of_base, part.labels)).size:
            raise DataError(f"dominoes: the {split} split of {options[side]!r} has no image of class {absent[0]}")
        chosen = _one_of_each(part.labels, of_base, raw(seed(side, "image"), count))
        images = reshaped(part.images[chosen], (channels, height, width))
        views.append(_noisy(images, options[f"noise_{side}"], seed(side, "noise"), value_range))
        attributes[side] = shown
    dominoes = np.concatenate(views, axis=2 if options["stacked"] else 3)
    if mark is not None:
        block = max(1, height // 4)
        dominoes[:, :, :block, :block] = _encoded(np.float64(mark), value_range)
    return Examples(dominoes, labels, attributes)


def _balanced(classes: Sequence[int], count: int) -> Labels:
    """(count,) each of the classes in turn."""
    return np.asarray(classes, np.int64)[np.arange(count) % len(classes)]


def _agreeing(labels: Labels, num_classes: int, chance: float, agreement: int, others: int) -> Labels:
    """(N,) the label itself with this chance, and otherwise one of the other classes, all equally likely.

    `agreement` seeds when, `others` which.
    """
    other = 1 + (raw(others, len(labels)) % np.uint64(num_classes - 1)).astype(np.int64)
    return np.where(uniform(agreement, len(labels)) < chance, labels, (labels + other) % num_classes)


def _one_of_each(labels: Labels, classes: Labels, bits: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(n,) an example of each of `classes` (n,), drawn uniformly among the examples of that class."""
    order = np.argsort(labels, kind="stable")
    first, last = (np.searchsorted(labels[order], classes, side) for side in ("left", "right"))
    return order[first + (bits % (last - first).astype(np.uint64)).astype(np.int64)]


def _noisy(images: Images, sigma: float, seed: int, value_range: tuple[float, float]) -> Images:
    """Images in PIXEL_RANGE plus Gaussian noise, clipped to `value_range` and encoded in it."""
    from scipy.special import ndtri

    bits = np.random.PCG64(seed)
    noisy = np.empty_like(images)
    for start in range(0, len(images), 1024):
        pixels = images[start : start + 1024] * (2 / 255) - 1
        if sigma:
            # The middle of each of 2**53 intervals, so that 0 and 1 do not occur.
            uniform = (_bits(bits, pixels.size) >> np.uint64(11)) * 2.0**-53 + 2.0**-54
            pixels += sigma * ndtri(uniform).reshape(pixels.shape)
        noisy[start : start + 1024] = _encoded(pixels, value_range)
    return noisy


def _encoded(pixels: Any, value_range: tuple[float, float]) -> Any:
    """The bytes, as floats, that stand for pixels; those out of range are clipped to it."""
    low, high = value_range
    return np.rint((pixels.clip(low, high) - low) * (255 / (high - low)))


def read_colored(request: Request) -> Raw:
    """Grey images on black, tinted in a colour that tells the label about as well as the shape does.

    The base dataset's classes are the labels, or, with `binary`, its first and second half are. The shape shows
    the label's class but for a share of `label_noise`, the colour agrees with the label with the chance of
    `correlation`, and otherwise each shows one of the other classes, all equally likely. The two are independent
    given the label. Labels are balanced, and each split is made of the images of that split of the base dataset.

    Attributes: `colour`, by the number of the label that it agrees with, and `shape`, the label before its noise.

    Raises:
        ValueError: the base is no ordinary dataset, or it has fewer than two classes or more than there are colours.
        DataError: a split of the base has no image of a class.

    Source: Arjovsky et al. (2019), arXiv:1907.02893, section 5.1; there red and green stand for the halves, the
        noise is 0.25, and the correlation 0.9 and 0.8 in training and 0.1 in the test.
    """
    base = _base(request, "colored", "base")
    binary = request.options["classes"] == "binary"
    colours = RED_AND_GREEN if binary else MUTED_COLOURS
    if base.num_classes < 2 or (not binary and base.num_classes > len(colours)):
        raise ValueError(
            f"colored: {request.options['base']!r} has {base.num_classes} classes; there are {len(colours)} colours, "
            "and it takes two classes or more"
        )
    classes = np.arange(base.num_classes)
    label_of_class = 2 * classes // base.num_classes if binary else classes
    train, validation, test = (
        _colored(request, getattr(base, split), split, count, label_of_class, np.asarray(colours))
        for split, count in zip(("train", "validation", "test"), request.sizes(), strict=True)
    )
    num_classes = int(label_of_class.max()) + 1
    attributes = {"colour": num_classes, "shape": num_classes}
    return Raw(train=train, validation=validation, test=test, num_classes=num_classes, attributes=attributes)


def _colored(
    request: Request,
    part: Examples,
    split: str,
    count: int,
    label_of_class: Labels,
    colours: NDArray[np.int64],
) -> Examples:
    options = request.options
    noise, correlation = float(options["label_noise"]), float(options["correlation"])

    def seed(*purpose: str) -> int:
        named = (options["base"], options["classes"], f"{noise} {correlation}")
        return derive_seed(0, "colored", *named, split, *purpose)

    num_classes = int(label_of_class.max()) + 1
    labels = _balanced(wanted_classes(request.source, num_classes), count)
    shape = _agreeing(labels, num_classes, 1 - noise, seed("shape", "agreement"), seed("shape", "class"))
    colour = _agreeing(labels, num_classes, correlation, seed("colour", "agreement"), seed("colour", "class"))
    shapes = label_of_class[part.labels]
    if (absent := np.setdiff1d(shape, shapes)).size:
        raise DataError(f"colored: the {split} split of {options['base']!r} has no image of class {absent[0]}")
    chosen = _one_of_each(shapes, shape, raw(seed("image"), count))
    assert not isinstance(part.images, Pictures)
    grey = reshaped(part.images[chosen], (1, *part.images.shape[2:])).astype(np.uint16)
    tints = colours.astype(np.uint16)[colour][:, :, None, None]  # (N, 3, 1, 1)
    return Examples(((grey * tints + 127) // 255).astype(np.uint8), labels, {"colour": colour, "shape": shape})


def read_competing_features(request: Request) -> Raw:
    """Two pixels: a feature that every component shares, and one that only this component may have.

    The label y is -1 or +1 with equal chances; the left pixel equals y with probability q, and the right
    pixel equals y with probability p, or is a fair coin where `private` is false. Every split holds the
    population itself: the counts of its eight atoms, exact up to rounding.

    Attributes: `shared` and `private`, 1 where the pixel is +1.

    Source: the population of toy.py.
    """
    q = request.options["q"]
    p = request.options["p"] if request.options["private"] else 0.5
    wanted = [(-1, 1)[label] for label in wanted_classes(request.source, 2)]
    atoms = {f"{y} {s} {r}": (y, s, r) for y, s, r in itertools.product(wanted, (-1, 1), (-1, 1))}
    chances = {name: (q if s == y else 1 - q) * (p if r == y else 1 - p) for name, (y, s, r) in atoms.items()}

    def split(count: int) -> Examples:
        counts = list(apportion(chances, count).values())
        values = np.asarray(list(atoms.values()))
        images = np.where(values[:, 1:] > 0, 255, 0).astype(np.uint8)[:, None, None, :]  # (8, 1, 1, 2)
        label, shared, private = np.repeat(values > 0, counts, axis=0).T.astype(np.int64)
        return Examples(np.repeat(images, counts, axis=0), label, {"shared": shared, "private": private})

    train, validation, test = (split(count) for count in request.sizes())
    attributes = {"shared": 2, "private": 2}
    return Raw(train=train, validation=validation, test=test, num_classes=2, attributes=attributes)


# Parts of readers ---------------------------------------------------------------------------------


class _ArraysOnly(pickle.Unpickler):
    """Unpickles arrays, lists, numbers and strings, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "numpy.core.multiarray._reconstruct": np.ndarray(0).__reduce__()[0],
            "numpy._core.multiarray._reconstruct": np.ndarray(0).__reduce__()[0],
            "_codecs.encode": codecs.encode,  # how Python 3 writes bytes for Python 2
        }
        try:
            return allowed[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which has no place in it") from None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside becomes a DataError that names `path`."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a damaged file can make its parser raise anything
        raise DataError(f"{path} cannot be read, so get it again: {_one_line(error)}") from error


def _examples(images: Any, labels: Any) -> Examples:
    """Images (N, C, H, W), or (N, H, W) of one channel, and labels of any integer type."""
    images = np.asarray(images)
    return Examples(images if images.ndim == 4 else images[:, None], np.asarray(labels).astype(np.int64))


def _taken(examples: Examples, indices: NDArray[np.int64]) -> Examples:
    images = examples.images
    attributes = {name: values[indices] for name, values in examples.attributes.items()}
    if isinstance(images, Pictures):
        pictures = Pictures(images.root, images.names[indices], images.shape)
        return Examples(pictures, examples.labels[indices], attributes)
    return Examples(images[indices], examples.labels[indices], attributes)


def _bits(generator: np.random.PCG64, count: int) -> NDArray[np.uint64]:
    return np.asarray(generator.random_raw(count), np.uint64).reshape(count)


def _described(value: Any) -> str:
    keys = f" with the keys {', '.join(map(str, value))}" if isinstance(value, Mapping) else ""
    return f"a {type(value).__name__}{keys}"


def _one_line(error: BaseException) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
