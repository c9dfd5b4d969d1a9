"""The question of `sweeps/clothes-digits-kana.yaml`, and how large it is asked. Imports nothing that is heavy."""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

COMPONENTS = ("clothes", "digits", "kana")
MIXTURES = (
    {"clothes": 1, "digits": 1, "kana": 1},
    {"clothes": 0.8, "digits": 0.1, "kana": 0.1},
    {"clothes": 0.1, "digits": 0.1, "kana": 0.8},
)
ORDERINGS = ("shuffled", "sequential")
WIDTHS = (0.25, 1.0)


@dataclass(frozen=True, kw_only=True)
class Study:
    """How large the study is."""

    steps: int = 600
    seeds: int = 3
    mixtures: int = 3  # the first so many
    train_examples: int = 5000  # that a probe is fitted to

    def cells(self) -> list[dict[str, Any]]:
        """Every mixture, by its number, with every ordering, width and seed."""
        axes = itertools.product(range(self.mixtures), ORDERINGS, WIDTHS, range(self.seeds))
        return [dict(zip(("mixture", "ordering", "width", "seed"), values, strict=True)) for values in axes]

    def as_json(self) -> dict[str, int]:
        return asdict(self)


def answer(description: str, run: Callable[[Study, Path], list[dict[str, Any]]]) -> None:
    """Run the study that the command line of a peer asks for; its rows and seconds go into the file that it names."""
    study, out = _asked(description)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="study-") as folder:
        rows = run(study, Path(folder))
    out.write_text(json.dumps({"rows": rows, "seconds": time.monotonic() - begun}) + "\n")


def _asked(description: str) -> tuple[Study, Path]:
    """What the command line of a peer says: the study, and where its rows go."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name, default in Study().as_json().items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    words = vars(parser.parse_args())
    return Study(**{name: words[name] for name in Study().as_json()}), words["out"].absolute()
