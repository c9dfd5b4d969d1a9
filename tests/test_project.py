"""The project's own files: what installs it."""

import itertools
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_pip_and_uv_are_given_the_same_pins_for_everything_that_is_asked_for():
    assert pins() == PROJECT["tool"]["uv"]["constraint-dependencies"]
    extras = PROJECT["project"]["optional-dependencies"].values()
    asked = [*PROJECT["project"]["dependencies"], *itertools.chain.from_iterable(extras)]
    names = {re.split(r"[\[<>=!]", name)[0].lower() for name in asked}
    assert names == {pin.partition("==")[0] for pin in pins()}


def test_no_lock_file_is_kept_and_no_pin_names_an_address():
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"uv.lock", "package-lock.json"} <= set(ignored)
    assert not any("/" in pin or "@" in pin for pin in pins())
