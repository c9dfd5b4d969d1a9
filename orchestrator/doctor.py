"""Is this machine fit to run sweeps, and is every node of the cluster? Each finding says what to do.

`machine` finds the facts, here and on a worker of every node; here they are judged, those of a node beside those of
this machine. The tracking server is asked from here only: workers never speak to it and need no credentials for it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from typing import Any, NamedTuple

from orchestrator import machine
from orchestrator.machine import Question
from orchestrator.settings import storage_location, tracking_location, without_password
from trainables.errors import UserError
from trainables.spec import Component

LEAST_FREE_BYTES = 2 * 2**30  # of a disk
LEAST_MEMORY_BYTES = 2**30
LEAST_OPEN_FILES = 4096  # below it Ray warns of lost connections
MOST_SKEW_S = 2.0
TURN_S = 0.005  # between two versions of the file that turns
SAID = 3  # differing files that are named


class Finding(NamedTuple):
    """One thing that was looked at."""

    what: str
    found: str
    fine: bool
    remedy: str = ""  # where it is not fine
    node: str = "this machine"

    @property
    def mark(self) -> str:
        return "ok" if self.fine else "!!"


def examine(
    storage: str | None,
    tracking_uri: str | None,
    *,
    components: Mapping[str, Component] | None = None,
    timeout_s: float = 120.0,
    say: Callable[[str], None] = lambda line: None,
) -> list[Finding]:
    """Everything that is looked at, in order: this machine, then the nodes of the cluster of RAY_ADDRESS, if it is set.

    Args:
        components: of the sweep that is to run; the same content is to be found on every machine.
        timeout_s: for each machine to answer.
        say: told, in a line, what takes time.
    """
    address = os.environ.get("RAY_ADDRESS")
    with _question(storage, components or {}) as question:
        here = _asked_here(question, timeout_s)
        found = [*_judged(here, here, {}), *_tracking(storage, tracking_uri)]
        if not address:
            return [*found, Finding("cluster", "RAY_ADDRESS is not set: a private Ray on this machine", True)]
        from orchestrator import launch

        try:
            nodes = launch.on_every_node(machine.CHECKS, question, timeout_s, say)
        except launch.LaunchError as error:
            remedy = "start the cluster, or correct RAY_ADDRESS and the token that RAY_AUTH_TOKEN_PATH names"
            return [*found, Finding("cluster", str(error), False, remedy)]
        found.append(Finding("cluster", f"{address} answers, {len(nodes)} nodes", True))
        for node in nodes:
            judged = [_clock(node.clock), _token(node.refuses_strangers)] if node.answers else []
            judged += _judged(node.answers, here, node.silent)
            found += [finding._replace(node=node.node) for finding in judged]
        return found


# Asking ---------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _question(storage: str | None, components: Mapping[str, Component]) -> Iterator[Question]:
    """What every machine is asked. While it is, the store has the driver's files and claim in it."""
    from trainables.store import Store, StoreError

    location = storage_location(storage).value
    challenge = f"doctor-{uuid.uuid4().hex}"
    try:
        store = Store(location)
        location = store.folder or location
        store.check()
    except StoreError:  # said again, and judged, when this machine is asked
        yield Question(storage=location, challenge="", components=components)
        return
    files = (machine.driver_file(challenge), machine.turning_file(challenge))
    ended = threading.Event()
    try:
        store.write(files[0], challenge.encode())
        store.write(files[1], b"a" * machine.TURNING_BYTES)
        turning = threading.Thread(target=_turn, args=(store, files[1], ended), daemon=True)
        turning.start()
        with store.claim(challenge):
            yield Question(storage=location, challenge=challenge, components=components)
    finally:
        ended.set()
        turning.join()
        with contextlib.suppress(StoreError):
            for name in (*files, f"locks/{challenge}.lock"):
                store.delete(name)


def _turn(store: Any, name: str, ended: threading.Event) -> None:
    """Replace a file all the time."""
    letters = b"ab"
    while not ended.wait(TURN_S):
        with contextlib.suppress(UserError):
            store.write(name, letters[:1] * machine.TURNING_BYTES)
        letters = letters[::-1]


def _asked_here(question: Question, timeout_s: float) -> dict[str, Any]:
    """The answers of this machine. What hangs, as a network folder may, leaves its thread behind and has none."""
    answers: dict[str, Any] = {}
    for name, check in machine.CHECKS.items():
        thread = threading.Thread(target=lambda n=name, c=check: answers.update({n: c(question)}), daemon=True)
        thread.start()
        thread.join(timeout_s)
    return answers


# Judging: pure --------------------------------------------------------------------------------------------------------


def _judged(answers: Mapping[str, Any], here: Mapping[str, Any], silent: Mapping[str, str]) -> Iterator[Finding]:
    """What a machine answered, beside the answers of this one; of this machine both are the same."""
    judges: dict[str, Callable[[Any, Any], Iterator[Finding]]] = {
        "software": _software,
        "limits": _limits,
        "listeners": _listeners,
        "devices": _devices,
        "store": _store,
        "data": _data,
    }
    if not answers:
        why = next(iter(silent.values()), "no answer")
        yield Finding("worker", why, False, "look at this node with `ray status`, and in its log folder")
        return
    for check, judge in judges.items():
        if check in answers:
            yield from judge(answers[check], here.get(check, {}))
        else:
            yield Finding(check, silent.get(check, "no answer in time"), False, "what it waits for hangs, or raises")


def _software(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Finding]:
    same_python = there["python"] == here["python"]
    yield Finding(
        "python",
        there["python"] + ("" if same_python else f", here {here['python']}"),
        same_python and sys.version_info >= (3, 11),
        "use the same Python on every node: what is sent between two versions may not be read",
    )
    for name, version in there["versions"].items():
        wanted = here["versions"][name]
        if not version:
            yield Finding(name, "not installed", False, "install this package with its dependencies")
        elif version != wanted:
            yield Finding(name, f"{version}, here {wanted}", False, "install the same versions (constraints.txt)")
        else:
            yield Finding(name, version, True)
    same = there["revision"] == here["revision"]
    yield Finding(
        "revision",
        there["revision"] + ("" if same else f", here {here['revision']}"),
        same,
        "bring the same revision of this program to every node",
    )


def _limits(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Finding]:
    threads, cores = there["threads"], there["cores"]
    fine = threads is None or (threads.isdigit() and 1 <= int(threads) <= cores)
    said = "not set: a trial gets 1 thread" if threads is None else threads
    yield Finding("OMP_NUM_THREADS", f"{said}, {cores} cores", fine, "set it to the cores of one trial, such as 1")
    files = there["open_files"]
    yield Finding("open files", f"at most {files}", files >= LEAST_OPEN_FILES, "raise the limit: `ulimit -n 65536`")
    memory = f"{there['memory_free'] / 2**30:.1f} of {there['memory'] / 2**30:.1f} GiB free"
    enough = there["memory_free"] >= LEAST_MEMORY_BYTES
    yield Finding("memory", memory, enough, "end what takes it, or run fewer trials at a time")
    for name, free in there["disk_free"].items():
        yield Finding(f"disk of the {name}", f"{free / 2**30:.1f} GiB free", free >= LEAST_FREE_BYTES, "make room")


def _listeners(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Finding]:
    """Ray's own ports are open on every address, which only a firewall can change; the others can be bound to one."""
    remedies = {
        "Ray's dashboard": "start Ray with --dashboard-host 127.0.0.1",
        "MLflow": "start it with --host 127.0.0.1 or a private address",
    }
    bad = False
    for service, address, port in there["listening"]:
        wildcard = ip_address(address).is_unspecified
        public = there["public"] if wildcard else [address] if ip_address(address).is_global else []
        if public or (wildcard and service in remedies):
            bad = True
            reach = f"at {', '.join(public)}" if public else "at every address of this machine"
            remedy = remedies.get(service, "let a firewall allow the cluster's own addresses only")
            yield Finding("port", f"{service} listens {reach}, port {port}", False, remedy)
    if not bad:
        services = sorted({service for service, _, _ in there["listening"]})
        inside = f"; inside the private network: {', '.join(services)}" if services else ""
        yield Finding("ports", f"none of ours is open to the world{inside}", True)


def _devices(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Finding]:
    if there["error"]:
        yield Finding("GPU", there["error"], False, "`nvidia-smi` on that machine says more")
    elif not there["gpus"]:
        yield Finding("GPU", "none: trials run on the CPU", True)
    for gpu in there["gpus"]:
        what = f"GPU {gpu['index']}"
        free = f"{gpu['name']}, {gpu['free'] / 2**30:.1f} of {gpu['total'] / 2**30:.1f} GiB free"
        taken = gpu["free"] < 0.5 * gpu["total"]
        if gpu["right"] is None:
            yield Finding(what, f"{free}; torch does not see it", False, "look at CUDA_VISIBLE_DEVICES and the driver")
        elif not gpu["right"]:
            yield Finding(what, f"{free}; it multiplies matrices wrongly", False, "take it out of service")
        elif gpu["ecc"]:
            yield Finding(what, f"{free}; {gpu['ecc']} uncorrected memory errors", False, "reset or replace it")
        elif taken:
            others = f"{gpu['processes']} processes have the rest" if gpu["processes"] else "the rest is taken"
            yield Finding(what, f"{free}; {others}", False, "wait, or leave it out with CUDA_VISIBLE_DEVICES")
        else:
            yield Finding(what, f"{free}; multiplies rightly", True)


def _store(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Finding]:
    if there["error"]:
        yield Finding("storage", there["error"], False, "give a location that this machine can write")
        return
    if there.get("same") is False:
        remedy = "mount the same folder on every node, or use an object store"
        yield Finding("storage", "another folder: what was written here is not there", False, remedy)
        return
    yield Finding("storage", "can be written" + (", and is the same" if there is not here else ""), True)
    if "whole" in there:
        whole, excluded = there["whole"], there["excluded"]
        seen = "seen whole" if whole else "seen in part"
        yield Finding("replaced files", seen, whole, "this file system cannot hold a store: use another one")
        held = (
            "a claim excludes" if excluded else "a claim does not exclude: stages may be computed twice, none wrongly"
        )
        yield Finding(
            "claims", held, excluded, "use a file system with locks (NFS 4), or an object store that has them"
        )


def _data(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Finding]:
    if "components" in there:
        yield from _components(there["components"], here.get("components", {}))
        return
    root, files, ours = there["root"], there["files"], here.get("files")
    if root is None:
        fine = here.get("root") is None
        said = "BOTTLENECK_DATA is not set; the embedded datasets need none"
        yield Finding("data", said, fine, "set BOTTLENECK_DATA where this node is started, or on this machine")
    elif files is None:
        yield Finding("data", f"{root}: no such folder", False, "put the datasets there, or correct BOTTLENECK_DATA")
    elif ours is not None and files != ours:
        differing = sorted(name for name in files.keys() | ours.keys() if files.get(name) != ours.get(name))
        more = f" and {len(differing) - SAID} more" if len(differing) > SAID else ""
        said = f"{root} differs from what is here: {', '.join(differing[:SAID])}{more}"
        yield Finding("data", said, False, "copy the same files to every machine")
    else:
        held = sorted({name.partition("/")[0] for name in files})
        yield Finding("data", f"{root}: {', '.join(held) or 'empty'}", True)


def _components(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Finding]:
    for name, found in there.items():
        ours = here.get(name, found)["content"]
        if found["error"]:
            yield Finding(f"data of {name}", found["error"], False, "copy the files of this machine")
        elif ours is not None and found["content"] != ours:
            said = f"content {found['content'][:12]}, here {ours[:12]}"
            yield Finding(f"data of {name}", said, False, "copy the files of this machine")
        else:
            yield Finding(f"data of {name}", f"content {found['content'][:12]}", True)


def _clock(reading: tuple[float, float] | None) -> Finding:
    if reading is None:
        return Finding("clock", "cannot be told", False, "this node does not answer")
    ahead, uncertainty = reading
    said = f"{abs(ahead):.3f} s {'ahead' if ahead > 0 else 'behind'} (± {uncertainty:.3f} s)"
    if abs(ahead) - uncertainty <= MOST_SKEW_S:
        return Finding("clock", said, True)
    harm = (
        f"{said}: times in the journal and in MLflow are wrong by this; results are not, and neither are locks. An "
        "object store refuses calls when it is 15 minutes"
    )
    return Finding("clock", harm, False, "let the machines keep time with chrony or NTP")


def _token(refuses: bool | None) -> Finding:
    remedy = "start every node with RAY_AUTH_MODE=token and one RAY_AUTH_TOKEN_PATH"
    if refuses is None:
        return Finding("token", "whether a call without a token is refused cannot be told", False, remedy)
    if refuses:
        return Finding("token", "a call without the token is refused", True)
    return Finding("token", "none is asked for: whoever reaches this cluster runs code on it", False, remedy)


# Tracking -------------------------------------------------------------------------------------------------------------


def _tracking(storage: str | None, flag: str | None) -> Iterator[Finding]:
    from orchestrator.tracking import TrackingError, check
    from trainables.store import Store, StoreError

    try:
        folder = Store(storage_location(storage).value).folder
    except StoreError:
        folder = None
    location = tracking_location(folder, flag)
    try:
        check(location.value)
    except TrackingError as error:
        yield Finding("MLflow", str(error), False, "start the server, or correct MLFLOW_TRACKING_URI")
    else:
        said = f"{without_password(location.value)} answers (from: {location.origin}); workers never ask it"
        yield Finding("MLflow", said, True)
