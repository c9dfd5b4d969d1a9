"""Which datasets are there, what options do they take, and where do their files lie?

One table, CATALOGUE; a new dataset is a new row. Beside it, a source may name code of the user as
`python:module:attribute`. Nothing here opens a data file: fingerprints are names, sizes and times. So
planning can ask whether data is where it should be without importing torch.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from stat import S_ISDIR
from typing import Any

from trainables import plugins, reading
from trainables.reading import DataError, Raw, Request, Shape
from trainables.spec import Source

Fingerprint = list[tuple[str, int, int]]  # path, size in bytes, time of the last change in ns

CLASS_LIST = re.compile(r"[0-9]{1,6}(-[0-9]{1,6})?(,[0-9]{1,6}(-[0-9]{1,6})?)*")
FILES_LOOKED_AT = 1_000  # a folder of more pictures is known by the times of its subfolders


@dataclass(frozen=True, kw_only=True)
class Option:
    """One setting of a dataset."""

    default: Any
    meaning: str
    choices: tuple[Any, ...] = ()  # empty: any text, or any number in `within`
    within: tuple[float, float] | None = None
    classes: bool = False  # text that lists classes
    required: bool = False

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value and what is possible, or None."""
        if self.choices:
            # Compared with the type: True == 1, and 1 is no answer to a yes-or-no question.
            if any(type(value) is type(choice) and value == choice for choice in self.choices):
                return None
            return f"it is one of {', '.join(map(json.dumps, self.choices))}"
        if value is None and self.default is None:
            return None
        if self.within:
            low, high = self.within
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            return None if number and low <= value <= high < math.inf else f"it is a number from {low:g} to {high:g}"
        if self.classes:
            listed = isinstance(value, str) and CLASS_LIST.fullmatch(value)
            return None if listed else 'it is text that lists classes, such as "0-4,8"'
        return None if isinstance(value, str) else "it is text"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A row of the catalogue."""

    title: str
    num_classes: int | None  # None: the options or the files say
    shape: Shape | None  # (channels, height, width) with the default options; None: the data says
    options: Mapping[str, Option] | None = field(default_factory=dict)  # None: any
    files: tuple[str, ...] = ()  # what is read, below one of the folders; options in braces
    folders: tuple[str, ...] = ()  # where below the data root the files may lie, tried in order; empty: no files
    remedy: str = ""  # how to get it; {root} stands for the data root
    read: Callable[[Request], Raw]
    trace: Callable[[Request], Fingerprint] | None = None  # None: sizes and times of the files
    shape_with: Callable[[Mapping[str, Any]], Shape | None] | None = None  # where the options change the shape


def data_root() -> Path | None:
    """The folder with the datasets' files: $BOTTLENECK_DATA, or None where it is not set."""
    value = os.environ.get("BOTTLENECK_DATA")
    return Path(value).expanduser().absolute() if value else None


def find(name: str) -> Dataset:
    """A dataset by its name in the catalogue, or `python:module:attribute`.

    Raises:
        ValueError: there is none; the message lists the known ones.
    """
    if plugins.is_code(name):
        plugins.parts("dataset", name)
        return PLUGIN
    if name in CATALOGUE:
        return CATALOGUE[name]
    raise ValueError(
        f"unknown dataset {name!r}{_nearest(name, CATALOGUE)}; known are {', '.join(CATALOGUE)} and "
        "python:module:attribute"
    )


def options_of(source: Source) -> dict[str, Any]:
    """Every option of the source's dataset, given or default.

    Raises:
        ValueError: an option is unknown, impossible or missing.
    """
    dataset = find(source.dataset)
    given = json.loads(source.options)
    if not isinstance(given, dict):
        raise ValueError(f"dataset {source.dataset!r}: options are {source.options}; they are names with values")
    if dataset.options is None:
        return given
    for name, value in given.items():
        if name not in dataset.options:
            raise ValueError(
                f"dataset {source.dataset!r} has no option {name!r}{_nearest(name, dataset.options)}; "
                f"it has {', '.join(dataset.options) or 'none'}"
            )
        if problem := dataset.options[name].problem(value):
            raise ValueError(
                f"dataset {source.dataset!r}: option {name!r} is {json.dumps(value)}; {problem} "
                f"({dataset.options[name].meaning})"
            )
    for name, option in dataset.options.items():
        if option.required and given.get(name) is None:
            raise ValueError(f"dataset {source.dataset!r} needs the option {name!r}: {option.meaning}")
    return {name: option.default for name, option in dataset.options.items()} | given


def declared_shape(source: Source) -> Shape | None:
    """The shape of the component's images as far as names and options tell it; None: the data says.

    Raises:
        ValueError: the source is impossible.
    """
    dataset = find(source.dataset)
    options = options_of(source)
    shape = dataset.shape_with(options) if dataset.shape_with else dataset.shape
    if shape is None and (source.image_size is None or source.channels is None):
        return None
    channels, height, width = shape or (0, 0, 0)
    if source.image_size is not None:
        height, width = source.image_size
    return source.channels or channels, height, width


def locate(source: Source, options: Mapping[str, Any]) -> Path:
    """The folder below which the dataset's files lie.

    Raises:
        DataError: they lie nowhere; the message says where was looked, and how to get them.
    """
    dataset = find(source.dataset)
    root, given = data_root(), options.get("root")
    if not dataset.folders:
        return root or Path()
    setting = f"BOTTLENECK_DATA is {root}" if root else "BOTTLENECK_DATA is not set"
    names = [name.format(**options) for name in dataset.files]
    base = root
    if given is not None:
        base = (root or Path()) / Path(given).expanduser()
    remedy = dataset.remedy.format(root=base or "ROOT")
    if base is None or not base.is_absolute():
        what = names[0] if names else given
        raise DataError(f"{source.dataset}: {setting}; set it to the folder that holds {what}. {remedy}")
    places = [base / folder for folder in dataset.folders]
    missing = {place: [name for name in names or ["."] if not (place / name).exists()] for place in places}
    place = min(places, key=lambda place: len(missing[place]))
    if missing[place]:
        what = " ".join(missing[place][:1]) if names else "such folder"
        raise DataError(f"{source.dataset}: no {what} in {' or '.join(map(str, places))} ({setting}). {remedy}")
    return place


def request_for(source: Source, prepared: Callable[[Source], Raw]) -> Request:
    """What a reader needs to read the source.

    Raises:
        ValueError: the source is impossible.
        DataError: the dataset's files are missing.
    """
    options = options_of(source)
    return Request(
        source=source,
        options=options,
        folder=locate(source, options),
        shape=declared_shape(source),
        prepared=prepared,
    )


def fingerprint(request: Request) -> Fingerprint:
    """What tells, without opening a file, whether the dataset has changed on this machine."""
    dataset = find(request.source.dataset)
    if dataset.trace is not None:
        return dataset.trace(request)
    return [_row(request.folder / name.format(**request.options), name) for name in dataset.files]


def trace_pictures(request: Request, tests: tuple[str, ...]) -> Fingerprint:
    """The pictures and folders; of more than FILES_LOOKED_AT pictures the folders alone.

    Adding, removing, renaming or replacing a picture changes the time of its folder. Overwriting it in place
    does not.
    """
    with reading.reading(request.folder):
        folders: Fingerprint = []
        pictures: Fingerprint | None = []
        for part in reading.picture_parts(request.folder, tests):
            folders.append(_row(part, part.name))
            for folder in reading.class_folders(part):
                name = f"{part.name}/{folder.name}"
                folders.append(_row(folder, name))
                if pictures is not None:
                    pictures = _with_files(pictures, folder, name)
        return folders + sorted(pictures or [])


def _with_files(rows: Fingerprint, folder: Path, name: str) -> Fingerprint | None:
    """The rows and those of the files of a folder; None if they become too many."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if len(rows) == FILES_LOOKED_AT:
                return None
            state = entry.stat()
            rows.append((f"{name}/{entry.name}", state.st_size, state.st_mtime_ns))
    return rows


def trace_plugin(request: Request) -> Fingerprint:
    """The file of the module that the attribute is looked up in. What it reads in turn is not followed."""
    module = request.source.dataset.split(":")[1]
    spec = plugins.module_spec(module)
    if spec is None:
        raise DataError(f"{request.source.dataset}: there is no module {module!r}; install it or add it to PYTHONPATH")
    if spec.origin is None or not Path(spec.origin).is_file():
        return [(module, 0, 0)]
    return [_row(Path(spec.origin), module)]


def trace_bases(request: Request, names: tuple[str, ...]) -> Fingerprint:
    """The files of the datasets that these options name."""
    rows: Fingerprint = []
    for name in names:
        rows += fingerprint(request_for(Source(dataset=request.options[name]), request.prepared))
    return rows


def shape_of_views(options: Mapping[str, Any]) -> Shape | None:
    left, right = (declared_shape(Source(dataset=options[side])) for side in reading.VIEWS)
    return reading.domino_shape(left, right, stacked=options["stacked"]) if left and right else None


def shape_in_colour(options: Mapping[str, Any]) -> Shape | None:
    grey = declared_shape(Source(dataset=options["base"]))
    return (3, *grey[1:]) if grey else None


def _row(path: Path, name: str) -> tuple[str, int, int]:
    state = path.stat()
    return name, 0 if S_ISDIR(state.st_mode) else state.st_size, state.st_mtime_ns


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


# The table ----------------------------------------------------------------------------------------

ROOT = Option(default=None, meaning="folder with the files; relative to BOTTLENECK_DATA")
PICTURES_ROOT = Option(default=None, required=True, meaning="folder with the pictures; relative to BOTTLENECK_DATA")
COARSE = Option(default=False, choices=(True, False), meaning="label the 20 superclasses instead of the 100 classes")
RESIDENT = Option(
    default="auto",
    choices=("auto", True, False),
    meaning="decode the pictures once, into the cache, or each one whenever it is shown; auto: by their size",
)


def _torchvision(kind: str, arguments: str = "") -> str:
    call = f"{kind}('{{root}}', {arguments}download=True)"
    return f'To get it: python -c "from torchvision.datasets import {kind}; {call}"'


def _like_mnist(title: str, kind: str) -> Dataset:
    """A dataset in the format of MNIST, in the folder that torchvision's class `kind` gives it."""
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    files = tuple(f"{kind}/raw/{name}-ubyte" for name in names)
    return Dataset(
        title=title,
        num_classes=10,
        shape=(1, 28, 28),
        options={"root": ROOT},
        files=files,
        folders=("",),
        remedy=_torchvision(kind),
        read=partial(reading.read_idx, names=files),
    )


EMNIST_FILES = tuple(
    f"EMNIST/raw/emnist-{{split}}-{name}-ubyte"
    for name in ("train-images-idx3", "train-labels-idx1", "test-images-idx3", "test-labels-idx1")
)
QMNIST_FILES = tuple(
    f"QMNIST/raw/qmnist-{name}"
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx2-int",
        "test-images-idx3-ubyte",
        "test-labels-idx2-int",
    )
)
CIFAR10_FILES = tuple(f"cifar-10-batches-py/{n}" for n in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"))
CIFAR100_FILES = ("cifar-100-python/train", "cifar-100-python/test")
STL10_FILES = tuple(f"stl10_binary/{name}.bin" for name in ("train_X", "train_y", "test_X", "test_y"))

CATALOGUE: Mapping[str, Dataset] = {
    "digits": Dataset(
        title="scikit-learn's handwritten digits (bundled)",
        num_classes=10,
        shape=(1, 8, 8),
        read=reading.read_digits,
    ),
    "dominoes": Dataset(
        title="two noisy views of a class side by side (constructed)",
        num_classes=None,
        shape=(1, 8, 16),
        options={
            "left": Option(default="digits", meaning="dataset of the left view"),
            "right": Option(default="digits", meaning="dataset of the right view"),
            "informative": Option(
                default="both",
                choices=("both", "left", "right"),
                meaning="the views that show the label's class",
            ),
            "noise_left": Option(default=0.0, within=(0, 10), meaning="standard deviation; pixels are in [-1, 1]"),
            "noise_right": Option(default=0.6, within=(0, 10), meaning="standard deviation; pixels are in [-1, 1]"),
            "correlation": Option(
                default=1.0, within=(0, 1), meaning="chance that the left of two informative views shows the label"
            ),
            "left_classes": Option(default=None, classes=True, meaning="classes of the left view, by default all"),
            "right_classes": Option(default=None, classes=True, meaning="classes of the right view, by default all"),
            "stacked": Option(default=False, choices=(True, False), meaning="left above right instead of side by side"),
            "mark": Option(
                default=None, within=(-1, 1), meaning="brightness of a corner that names the component, by default none"
            ),
        },
        read=reading.read_dominoes,
        trace=partial(trace_bases, names=reading.VIEWS),
        shape_with=shape_of_views,
    ),
    "colored": Dataset(
        title="a dataset in colours that agree with the label, mostly: ColoredMNIST (constructed)",
        num_classes=None,
        shape=(3, 28, 28),
        options={
            "base": Option(default="mnist", meaning="dataset of the shapes"),
            "classes": Option(
                default="binary",
                choices=("binary", "all"),
                meaning="labels: the halves of the base dataset's classes, in red and green, or all classes",
            ),
            "label_noise": Option(default=0.25, within=(0, 1), meaning="share of labels that the shape contradicts"),
            "correlation": Option(default=0.9, within=(0, 1), meaning="chance that the colour agrees with the label"),
        },
        read=reading.read_colored,
        trace=partial(trace_bases, names=("base",)),
        shape_with=shape_in_colour,
    ),
    "competing_features": Dataset(
        title="a shared and a private feature of two classes, one pixel each (constructed)",
        num_classes=2,
        shape=(1, 1, 2),
        options={
            "q": Option(default=0.9, within=(0, 1), meaning="chance that the shared feature agrees with the label"),
            "p": Option(default=0.99, within=(0, 1), meaning="chance that the private feature agrees with the label"),
            "private": Option(
                default=True, choices=(True, False), meaning="false: the private feature is a fair coin here"
            ),
        },
        read=reading.read_competing_features,
    ),
    "mnist": _like_mnist("MNIST handwritten digits", "MNIST"),
    "fashion_mnist": _like_mnist("Fashion-MNIST clothes", "FashionMNIST"),
    "kmnist": _like_mnist("Kuzushiji-MNIST characters", "KMNIST"),
    "emnist": Dataset(
        title="EMNIST handwritten characters",
        num_classes=None,
        shape=(1, 28, 28),
        options={
            "split": Option(
                default="balanced",
                choices=("balanced", "letters", "digits", "mnist", "byclass", "bymerge"),
                meaning="which of its six selections of characters",
            ),
            "root": ROOT,
        },
        files=EMNIST_FILES,
        folders=("",),
        remedy=_torchvision("EMNIST", "split='balanced', "),
        read=partial(reading.read_emnist, names=EMNIST_FILES),
    ),
    "qmnist": Dataset(
        title="QMNIST handwritten digits, with all 60,000 test images",
        num_classes=10,
        shape=(1, 28, 28),
        options={"root": ROOT},
        files=QMNIST_FILES,
        folders=("",),
        remedy=f"{_torchvision('QMNIST')}, and again with train=False",
        read=partial(reading.read_idx, names=QMNIST_FILES),
    ),
    "usps": Dataset(
        title="USPS handwritten digits",
        num_classes=10,
        shape=(1, 16, 16),
        options={"root": ROOT},
        files=("usps.bz2", "usps.t.bz2"),
        folders=("USPS", ""),
        remedy=f"{_torchvision('USPS')}, and again with train=False",
        read=reading.read_usps,
    ),
    "semeion": Dataset(
        title="SEMEION handwritten digits",
        num_classes=10,
        shape=(1, 16, 16),
        options={"root": ROOT},
        files=("semeion.data",),
        folders=("SEMEION", ""),
        remedy=_torchvision("SEMEION"),
        read=reading.read_semeion,
    ),
    "svhn": Dataset(
        title="Street View House Numbers",
        num_classes=10,
        shape=(3, 32, 32),
        options={"root": ROOT},
        files=("train_32x32.mat", "test_32x32.mat"),
        folders=("SVHN", ""),
        remedy=f"{_torchvision('SVHN')}, and again with split='test'",
        read=reading.read_svhn,
    ),
    "cifar10": Dataset(
        title="CIFAR-10",
        num_classes=10,
        shape=(3, 32, 32),
        options={"root": ROOT},
        files=CIFAR10_FILES,
        folders=("",),
        remedy=_torchvision("CIFAR10"),
        read=partial(reading.read_cifar, kind="CIFAR10"),
    ),
    "cifar100": Dataset(
        title="CIFAR-100",
        num_classes=100,
        shape=(3, 32, 32),
        options={"coarse": COARSE, "root": ROOT},
        files=CIFAR100_FILES,
        folders=("",),
        remedy=_torchvision("CIFAR100"),
        read=partial(reading.read_cifar, kind="CIFAR100", labels="fine_labels"),
    ),
    "cifar100_subset": Dataset(
        title="part of CIFAR-100, in its format",
        num_classes=100,
        shape=(3, 32, 32),
        options={"coarse": COARSE, "root": ROOT},
        files=CIFAR100_FILES,
        folders=("cifar-100-subset", ""),
        remedy="It is unpacked by `python shared/data/check.py --unpack {root} CIFAR100subset`",
        read=partial(reading.read_cifar, kind="CIFAR100", labels="fine_labels", verified=False),
    ),
    "stl10": Dataset(
        title="STL-10, labelled part",
        num_classes=10,
        shape=(3, 96, 96),
        options={"root": ROOT},
        files=STL10_FILES,
        folders=("",),
        remedy=_torchvision("STL10"),
        read=reading.read_stl10,
    ),
    "imagenet": Dataset(
        title="ImageNet-1k, unpacked into a folder per class; `val` is the test split",
        num_classes=1000,
        shape=(3, 224, 224),
        options={"root": ROOT, "resident": RESIDENT},
        files=("train", "val"),
        folders=("imagenet", "ImageNet", ""),
        remedy="Get its archives from image-net.org; torchvision.datasets.ImageNet('{root}') unpacks them",
        read=partial(reading.read_pictures, tests=("val",)),
        trace=partial(trace_pictures, tests=("val",)),
    ),
    "image_folder": Dataset(
        title="your pictures: ROOT/train/CLASS/* and ROOT/test/CLASS/*, or ROOT/CLASS/*",
        num_classes=None,
        shape=(3, 64, 64),
        options={"root": PICTURES_ROOT, "resident": RESIDENT},
        folders=("",),
        remedy="Its option `root` names a folder with a folder of pictures per class",
        read=partial(reading.read_pictures, tests=("test", "val")),
        trace=partial(trace_pictures, tests=("test", "val")),
    ),
}

PLUGIN = Dataset(
    title="your code: python:module:attribute",
    num_classes=None,
    shape=None,
    options=None,
    read=reading.read_plugin,
    trace=trace_plugin,
)
