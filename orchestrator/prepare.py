"""What must be known before a sweep can be planned? Its components' content and its networks' sizes."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.plan import Plan, architectures, imports, plan, sources
from orchestrator.sweep import Image, Sweep
from trainables import facts
from trainables.catalogue import declared_shape
from trainables.components import default_shape
from trainables.facts import FactError, NetworkSize
from trainables.spec import Component


def prepare(sweep: Sweep, say: Callable[[str], None]) -> tuple[Plan, dict[str, NetworkSize]]:
    """The plan of a sweep, and the sizes of its networks by the digest of their architecture.

    Args:
        say: told, in a line, when something has to be prepared that is done once per machine.

    Raises:
        SweepError: the sweep cannot be planned on this machine: data is missing or damaged, there is no such network.
    """
    planned = plan(sweep, components(sweep, say))
    try:
        sizes = facts.network_sizes(architectures(planned), say)
    except FactError as error:
        raise sweep.error("vary.architecture", str(error)) from error
    return planned, sizes


def components(sweep: Sweep, say: Callable[[str], None]) -> dict[str, Component]:
    """The components of a sweep, with data that this machine has ready.

    Args:
        say: told, in a line, when something has to be prepared that is done once per machine.

    Raises:
        SweepError: data is missing or damaged.
    """
    for name in imports(sweep):
        say(f"importing {name}, which the sweep names")
    native = {}
    for name, component in sweep.components.items():
        try:
            source = component.source(Image())
            if declared_shape(source) is None:  # the user's code says; it is run in a process that can be ended
                facts.components({name: source}, say)
            native[name] = default_shape(source)
        except ValueError as error:
            raise sweep.error(f"components.{name}", str(error)) from error
    try:
        return facts.components(sources(sweep, native), say)
    except FactError as error:
        raise sweep.error(f"components.{error.name}", str(error)) from error
