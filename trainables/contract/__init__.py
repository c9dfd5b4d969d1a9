"""Does a plug-in keep its promises? Tests that its author runs, on the code that a sweep file would name.

    pytest -p trainables.contract --pyargs trainables.contract --component my_package.data:faces
           --architecture my_package.nets:tiny --ordering my_package.orderings:late --representation my_package.reps:two

Each option may be given several times, by import path or by the name that a package or this program gives. What is not
given is skipped. This module is the plug-in of pytest with the options; the tests stand beside it.
"""

from __future__ import annotations

import pytest

from trainables.plugins import PREFIX

OPTIONS = {
    "component": "a dataset",
    "architecture": "a network",
    "ordering": "an ordering",
    "representation": "a representation",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("contract", "contracts of Bottleneck's plug-ins")
    for name, what in OPTIONS.items():
        said = f"{what}: module:attribute, or a name; again for more"
        group.addoption(f"--{name}", action="append", default=[], metavar="NAME", help=said)
    group.addoption("--component-options", default="{}", metavar="JSON", help="the options of the datasets")
    group.addoption("--image-shape", default="3,32,32", metavar="C,H,W", help="of what networks are shown")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test once for every name that was given for what it takes."""
    if not metafunc.module.__name__.startswith(f"{__name__}."):
        return
    for option in OPTIONS:
        if option not in metafunc.fixturenames:
            continue
        given = [_path(name) for name in metafunc.config.getoption(option)]
        absent = pytest.param("", marks=pytest.mark.skip(reason=f"no --{option} is given"), id="none")
        metafunc.parametrize(option, given or [absent])


@pytest.fixture(scope="session")
def image_shape(pytestconfig: pytest.Config) -> tuple[int, int, int]:
    """(channels, height, width) of what networks are shown."""
    channels, height, width = map(int, pytestconfig.getoption("--image-shape").split(","))
    return channels, height, width


def _path(name: str) -> str:
    """`module:attribute` as a sweep file writes it; `cat:4` is a name of ours."""
    bare = ":" in name and not name.startswith(PREFIX) and not name.rpartition(":")[2].isdigit()
    return f"{PREFIX}{name}" if bare else name
