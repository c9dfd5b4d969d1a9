"""How many trials could the cluster run at its largest?

Ray tells what is there now, and an autoscaling cluster starts with no worker at all: it grows for trials that wait. So
enough of them have to wait, and how many is said by the file that the cluster was started with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

# `ray up` leaves it on the head, resolved: node types with their resources and limits.
CLUSTER_FILE = Path("~/ray_bootstrap_config.yaml")

Resources = Mapping[str, float]


def capacity(cpus: float, gpus: float, nodes: Sequence[Resources], config: Mapping[str, Any] | None = None) -> int:
    """How many trials fit at once, on the machines that are there and on those that may come.

    Args:
        cpus, gpus: what one trial takes.
        nodes: resources of each machine that is there, as Ray names them.
        config: the cluster file as `ray up` resolved it; None: no machine comes or goes.

    A node type that does not say what it has, as those of the `local` provider, is taken to be like the best machine
    there.
    """
    fits = [_fits(node, cpus, gpus) for node in nodes]
    if config is None:
        return sum(fits)
    types: Mapping[str, Mapping[str, Any]] = config["available_node_types"]
    head = config["head_node_type"]
    known = {
        name: _fits(kind["resources"], cpus, gpus) if kind.get("resources") else max(fits, default=0)
        for name, kind in types.items()
    }
    on_head = _fits(types[head]["resources"], cpus, gpus) if types[head].get("resources") else 0
    most = config.get("max_workers", 0)
    workers = [known[name] for name, kind in types.items() for _ in range(min(kind.get("max_workers", 0), most))]
    return max(sum(fits), on_head + sum(sorted(workers, reverse=True)[:most]))


def of_this_cluster(cpus: float, gpus: float, nodes: Iterable[Mapping[str, Any]]) -> int:
    """`capacity` of the cluster that this process is connected to.

    Args:
        nodes: what `ray.nodes()` returns.

    The cluster file is that of this machine, which is right where `bottleneck run` runs on the head, as
    `ray job submit` makes it. Where there is none, what is there now counts.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    return capacity(cpus, gpus, alive, cluster_file())


def cluster_file(path: Path = CLUSTER_FILE) -> dict[str, Any] | None:
    """The cluster file on this machine; None where there is none, or it has no node types."""
    try:
        config = yaml.safe_load(path.expanduser().read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return config if isinstance(config, dict) and {"available_node_types", "head_node_type"} <= set(config) else None


def _fits(resources: Resources, cpus: float, gpus: float) -> int:
    """How many trials fit on one machine."""
    wanted = {"CPU": cpus, "GPU": gpus}
    # Ray counts in ten-thousandths, so that 0.1 + 0.1 + ... is what it seems.
    there = {name: round(1e4 * resources.get(name, 0)) for name in wanted}
    return min((there[name] // max(1, round(1e4 * each)) for name, each in wanted.items() if each > 0), default=0)
