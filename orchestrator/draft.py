"""What does a first sweep file look like? One that asks a question of the reader's own pictures, or of known datasets.

A draft is small enough for minutes on a laptop, has a comment for every key, and is checked like any sweep file before
it is written. Which folders of pictures can be read is `trainables.reading`'s business; here they are only counted.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator import document
from orchestrator import sweep as sweeps
from orchestrator.mixtures import MIXTURES
from trainables.catalogue import CATALOGUE, data_root, find, locate
from trainables.errors import UserError
from trainables.reading import PICTURE_FILES, DataError, class_folders, picture_parts
from trainables.spec import Source

SIZES = (8, 16, 24, 28, 32, 48, 64)  # pixels that a draft brings pictures to: what a laptop trains on in minutes
SAMPLED = 200  # pictures whose size is looked at
FEWEST_PICTURES = 5  # of a class, for training, validation and test
FEWEST_CLASSES = 4  # of one set that is divided into two components
MOST_LEFT_OUT = 6  # components up to which each is left out once
SEEDS, STEPS = 3, 300
LAYOUTS = (
    "FOLDER/CLASS/*.jpg (one set, divided into two components by its classes) and FOLDER/COMPONENT/CLASS/*.jpg (a "
    "component each) are possible, both also with train/ and test/ above the classes"
)

# What a draft may vary beside the mixture, and the line of the file for it.
VARIED: Mapping[str, str] = {
    "ordering": "ordering: [shuffled, {{sequential: [{names}]}}]  # when the examples come",
    "width": "width: [0.5, 1]  # multiplies the channels of every layer",
    "architecture": "architecture: [{architecture}, {other}]  # the network",
    "weight_decay": "training: [{{}}, {{weight_decay: 0.001}}]  # what differs from `pretrain` below; {{}}: nothing",
}


class DraftError(UserError):
    """No sweep file can be drafted; the message says why and what is possible, in one line."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One component of a draft."""

    dataset: str  # of the catalogue
    root: str | None = None  # of image_folder
    classes: tuple[int, ...] | None = None  # None: all
    remark: str = ""  # for people


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What a sweep file is to say."""

    name: str
    components: Mapping[str, Part]
    found: str  # what was found, for people: "3 components, 12 classes, 2,310 images"
    size: int | None = None  # pixels; None: the largest of the components' own
    channels: int | None = None
    shared: bool = False  # whether all components label the same classes
    question: str = ""  # empty: the usual one
    varied: tuple[str, ...] = field(default=())  # keys of VARIED
    seeds: int = SEEDS
    steps: int = STEPS


# From a folder of pictures ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pictures:
    """A folder that `image_folder` can read."""

    root: Path
    classes: tuple[str, ...]
    pictures: tuple[Path, ...]


def of_folder(folder: Path) -> Draft:
    """A draft for the pictures below a folder: a component for each folder of folders, or one set in two halves.

    Raises:
        DraftError: there are no pictures where they can be read, or too few.
        DataError: a picture cannot be read.
    """
    folder = folder.expanduser().absolute()
    if not str(folder).isprintable():
        raise DraftError(f"the name of {str(folder)!r} has characters that a sweep file cannot hold; rename the folder")
    sets = _sets(folder)
    size, channels = _shape([path for one in sets for path in one.pictures])
    counted = f"{sum(len(one.pictures) for one in sets):,} images"
    shared = len(sets) > 1 and len({one.classes for one in sets}) == 1
    if len(sets) == 1:
        found = f"one set, {len(sets[0].classes)} classes, {counted}"
        components = _halves("image_folder", sets[0].classes, _below_data_root(sets[0].root))
    else:
        own = len(sets[0].classes) if shared else sum(len(one.classes) for one in sets)
        found = f"{len(sets)} components, {own} classes{' that all of them share' if shared else ''}, {counted}"
        names = _names([one.root.name for one in sets])
        components = {name: _component(one) for name, one in zip(names, sets, strict=True)}
    colour = "in colour" if channels == 3 else "grey"
    return Draft(
        name=_sweep_name(folder.name),
        components=components,
        found=f"{found}, {colour}, read at {size} x {size} pixels",
        size=size,
        channels=channels,
        shared=shared,
    )


def _component(one: _Pictures) -> Part:
    remark = f"{len(one.pictures):,} images of {len(one.classes)} classes"
    return Part(dataset="image_folder", root=_below_data_root(one.root), remark=remark)


def _sets(folder: Path) -> list[_Pictures]:
    """The sets of pictures below a folder: itself, or each of its folders."""
    if not folder.is_dir():
        raise DraftError(f"{folder}: found no such folder; {LAYOUTS}")
    below = class_folders(folder)
    if (folder / "train").is_dir() or (below and all(map(_holds_pictures, below))):
        return [_set(folder)]
    if not below:
        raise DraftError(f"{folder}: found {'pictures' if _holds_pictures(folder) else 'nothing'} in it; {LAYOUTS}")
    strange = [one for one in below if not _holds_sets(one)]
    if strange:
        where = "pictures directly in" if _holds_pictures(strange[0]) else "no folders of pictures in"
        raise DraftError(f"{folder}: found {where} {strange[0].name}; {LAYOUTS}")
    if len(below) == 1:
        raise DraftError(f"{folder}: found one component, {below[0].name}; name {below[0]} to divide it by its classes")
    return [_set(one) for one in below]


def _holds_pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in PICTURE_FILES for path in folder.iterdir())


def _holds_sets(folder: Path) -> bool:
    """Whether it is a folder of classes, or of splits with classes below them."""
    below = class_folders(folder)
    if (folder / "train").is_dir():
        below = class_folders(folder / "train")
    return bool(below) and all(map(_holds_pictures, below))


def _set(root: Path) -> _Pictures:
    classes: dict[str, list[Path]] = {}
    for part in picture_parts(root, ("test", "val")):
        for folder in class_folders(part):
            pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_FILES)
            classes.setdefault(folder.name, []).extend(pictures)
    few = [(len(pictures), name) for name, pictures in classes.items() if len(pictures) < FEWEST_PICTURES]
    if few:
        raise DraftError(
            f"{root}: class {few[0][1]} has {few[0][0]} pictures; each needs {FEWEST_PICTURES} or more, for training, "
            "validation and test"
        )
    if len(classes) < 2:
        raise DraftError(f"{root}: found {len(classes)} class; a component needs two or more; {LAYOUTS}")
    return _Pictures(root, tuple(sorted(classes)), tuple(path for found in classes.values() for path in found))


def _shape(pictures: Sequence[Path]) -> tuple[int, int]:
    """Pixels of a side, and channels, that suit most of the pictures."""
    from PIL import Image

    sides, channels = [], 1
    for path in pictures[:: max(1, len(pictures) // SAMPLED)]:
        try:
            with Image.open(path) as picture:
                sides.append(min(picture.size))
                channels = max(channels, 1 if picture.mode in ("1", "L", "LA", "I", "I;16", "F") else 3)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path} cannot be read as a picture, so remove it or get it again: {error}") from error
    usual = sorted(sides)[len(sides) // 2]
    return max((size for size in SIZES if size <= usual), default=SIZES[0]), channels


def _below_data_root(root: Path) -> str:
    """The folder as a sweep file names it: below BOTTLENECK_DATA, so that it is found on other machines, if it is."""
    data = data_root()
    return str(root.relative_to(data)) if data and root.is_relative_to(data) else str(root)


# From the catalogue -----------------------------------------------------------------------------------------------


def available() -> list[str]:
    """The datasets of the catalogue that are bundled or lie below BOTTLENECK_DATA."""
    return ["digits", *(name for name, dataset in CATALOGUE.items() if dataset.folders and _is_there(name))]


def _is_there(name: str) -> bool:
    dataset = CATALOGUE[name]
    options = {key: option.default for key, option in (dataset.options or {}).items()}
    if any(option.required for option in (dataset.options or {}).values()):
        return False
    try:
        locate(Source(dataset=name), options)
    except DataError:
        return False
    return True


def of_datasets(datasets: Sequence[str], *, question: str, varied: Sequence[str], seeds: int, steps: int) -> Draft:
    """A draft for datasets of the catalogue; one alone is divided into two components by its classes.

    Raises:
        DraftError: there are none, or one alone has too few classes.
        ValueError: there is no such dataset.
    """
    if not datasets:
        raise DraftError(f"found no component; name one or more of {', '.join(available())}")
    found = [find(name) for name in datasets]
    if len(datasets) == 1:
        classes = tuple(map(str, range(found[0].num_classes or 0)))
        components = _halves(datasets[0], classes, None)
    else:
        components = {
            name: Part(dataset=name, remark=dataset.title) for name, dataset in zip(datasets, found, strict=True)
        }
    largest = max((max(dataset.shape[1:]) for dataset in found if dataset.shape), default=0)
    return Draft(
        name=_sweep_name("-and-".join(datasets)),
        components=components,
        found=", ".join(dataset.title for dataset in found),
        size=32 if largest > SIZES[-1] else None,
        question=question,
        varied=tuple(varied),
        seeds=seeds,
        steps=steps,
    )


def _halves(dataset: str, classes: Sequence[str], root: str | None) -> dict[str, Part]:
    if len(classes) < FEWEST_CLASSES:
        raise DraftError(
            f"{root or dataset}: found {len(classes)} classes; one set is divided into two components of two or more, "
            f"so it needs {FEWEST_CLASSES}: name a second set, or a folder with a folder for each component"
        )
    middle = len(classes) // 2
    ranges = {"first": range(middle), "second": range(middle, len(classes))}
    return {
        name: Part(
            dataset=dataset,
            root=root,
            classes=tuple(numbers),
            remark=_shortened("classes " + ", ".join(classes[number] for number in numbers)),
        )
        for name, numbers in ranges.items()
    }


# The file ---------------------------------------------------------------------------------------------------------


def usual_question(components: Sequence[str]) -> str:
    """What most people ask first."""
    return f"Does a network pretrained on {_listed(components)} together serve each as well as one trained on it alone?"


def write(draft: Draft, path: Path) -> sweeps.Sweep:
    """Write the draft as a sweep file, and return it as it was read back.

    Raises:
        DraftError: the file exists, or cannot be written.
    """
    written = text(draft)
    read = sweeps.parse(written, str(path))  # before anything is written
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(written)
    except FileExistsError:
        raise DraftError(f"{path} exists and stays as it is; name another file") from None
    except OSError as error:
        raise DraftError(f"{path} cannot be written: {error.strerror}") from error
    return read


def text(draft: Draft) -> str:
    """The sweep file, with a comment for every key."""
    names = [_scalar(name) for name in draft.components]
    small = draft.size is not None and draft.size < 16
    architecture, other, rate = ("mlp", "cnn", 0.1) if small else ("cnn", "mlp", 0.05)
    lines = [
        f"# {draft.found}.",
        "#",
        "# `bottleneck validate` checks this file, `bottleneck plan` says what it costs, `bottleneck run` runs it.",
        "",
        f"name: {_scalar(draft.name)}  # names the folder of the results",
        "question: >-",
        *textwrap.wrap(
            " ".join((draft.question or usual_question(list(draft.components))).split()),
            110, initial_indent="  ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False,
        ),
        "",
        "# What mixtures are made of. Each component is measured, whether a mixture holds any of it or not.",
        "components:",
        *(_component_line(name, part) for name, part in zip(names, draft.components.values(), strict=True)),
    ]  # fmt: skip
    if draft.size is not None:
        channels = f", channels: {draft.channels}" if draft.channels else ""
        lines += ["", f"image: {{size: {draft.size}{channels}}}  # all images are brought to these pixels"]
    if draft.shared:
        lines += [
            "",
            "label_space: shared  # all components have the same classes; joint: each has its own in one head",
        ]
    lines += [
        "",
        "# Every combination of the values below is a trial.",
        "vary:",
        "  mixture:  # relative weights of the components in pretraining",
        *(f"    - {mixture}" for mixture in _mixtures(names)),
    ]
    if "architecture" not in draft.varied:
        lines.append(f"  architecture: {architecture}  # mlp, cnn, resnet18, vit_tiny, ...")
    for key in draft.varied:
        lines.append("  " + VARIED[key].format(names=", ".join(names), architecture=architecture, other=other))
    lines += [
        "",
        f"seeds: {draft.seeds}  # repetitions of each trial; with fewer than 3 no gap can be told from chance",
        "# The training of each network. Longer runs cost in proportion, and lose and keep other things.",
        f"pretrain: {{steps: {draft.steps}, batch_size: 64, learning_rate: {rate:g}}}",
        "transfer: {train_examples: 2000}  # at most so many examples for the linear probe that reads the features",
        "direct: {kind: same_steps}  # what a gap is measured against: training on the component alone, as many steps",
        "resources: {cpu: 1, gpu: 0}  # of one trial; a share of a GPU, such as 0.25, lets trials share it",
    ]
    return "\n".join(lines) + "\n"


def _component_line(name: str, part: Part) -> str:
    options = f", options: {{root: {json.dumps(part.root, ensure_ascii=False)}}}" if part.root else ""
    classes = "" if part.classes is None else f", classes: [{', '.join(map(str, part.classes))}]"
    remark = f"  # {part.remark}" if part.remark else ""
    return f"  {name}: {{dataset: {part.dataset}{options}{classes}}}{remark}"


def _mixtures(names: Sequence[str]) -> list[str]:
    """Equal parts, and what tells most about each component beside them."""
    equal = "{" + ", ".join(f"{name}: 1" for name in names) + "}  # equal parts"
    if len(names) == 2:
        first, second = names
        return [equal, f"{{{first}: 9, {second}: 1}}", f"{{{first}: 1, {second}: 9}}"]
    if len(names) <= MOST_LEFT_OUT:
        return [equal, "leave_one_out  # for each component, a mixture of all the others"]
    return [equal, "proportional  # each by the number of its examples"]


def _names(folders: Sequence[str]) -> list[str]:
    """Names of components after folders: letters, digits, _ and -, each once."""
    found: list[str] = []
    for folder in folders:
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", folder)[:56].strip("_-") or "part"
        name = name if name[0].isalpha() else f"c_{name}"
        name = f"{name}_" if name in MIXTURES else name
        number = 2
        while name in found:
            name, number = f"{name.rstrip('0123456789_')}_{number}", number + 1
        found.append(name)
    return found


def _sweep_name(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower())[:60].strip("._-") or "first-sweep"


def _scalar(word: str) -> str:
    """A name as YAML reads it as a word: some, such as `1` and `null`, are something else."""
    return word if document.tree(word, "", ()).value == word else json.dumps(word)


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _shortened(words: str) -> str:
    shown = "".join(character if character.isprintable() else "?" for character in words)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
