"""Does a trial come out the same again? One seed of it is computed anew, and each stage compared with what is stored.

What is computed goes to a scratch folder, which is gone afterwards; the store is only read. Trials run in this process,
without Ray, on as many threads as the sweep gives a trial.

A stage is *bit-equal* if its tensors have the same checksums and its result the same numbers. It is *within tolerance*
if no difference exceeds the tolerance t: numbers differ by at most t (above 1, by that share of the larger), those of a
tensor by at most t of its largest one, and the answers to at most that share of the test examples. What was chosen on
validation, and what is no number, has to be the same. Everything else is *different*. What a run cost (seconds, device,
batches that were divided for want of memory, how many runs were trained as one) is not compared.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from orchestrator import prepare
from orchestrator import sweep as sweeps
from orchestrator.journal import Journal, UnknownSweep
from orchestrator.plan import Planner
from orchestrator.space import point_of
from trainables.errors import UserError
from trainables.spec import Cell, PretrainSpec, StageSpec, TrialSpec
from trainables.spec import as_json as plain
from trainables.store import DamagedEntry, Store

if TYPE_CHECKING:
    from torch import Tensor

Verdict = Literal["bit-equal", "within tolerance", "different", "not stored"]

TOLERANCE = 1e-3  # of an accuracy, 0.1 points
PROVENANCE = ("revision", "versions", "device")
NOT_COMPARED = (
    *PROVENANCE,
    "seconds",
    "started",
    "finished",
    "examples_per_second",
    "worker",
    "micro_batch",
    "fused",
    "place",
)
MOST_NEAR = 3  # trials that are listed where there is no such one


class ReplayError(UserError):
    """The trial cannot be repeated; the message says why, in one line."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One number, word or tensor that did not come out the same."""

    what: str  # "test_accuracy", "weights head.bias"
    size: float  # on the scale of the tolerance; infinite for what has to be the same
    sentence: str
    step: int | None = None  # of the run, from which on it shows; None: it has no step


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One stage, as it is stored and as it came out again."""

    kind: str
    digest: str
    label: str
    verdict: Verdict
    largest: float  # of the differences, on the scale of the tolerance; 0: there are none
    first: Difference | None  # that shows: in a run the earliest step


@dataclass(frozen=True, kw_only=True)
class Replay:
    """How a trial came out again, of one seed."""

    sweep: str
    trial: str
    label: str
    seed: int
    tolerance: float
    stages: tuple[Compared, ...]  # in the order of their computation: each after what it reads
    stored_with: Mapping[str, tuple[str, ...]]  # revision, versions and device, each as often as it differs
    repeated_with: Mapping[str, tuple[str, ...]]

    @property
    def verdict(self) -> Verdict:
        """The worst of the stages that are stored."""
        order: Sequence[Verdict] = ("different", "within tolerance", "bit-equal")
        found = {stage.verdict for stage in self.stages}
        return next((verdict for verdict in order if verdict in found), "not stored")

    @property
    def first(self) -> Compared | None:
        """The first stage that is not bit-equal, or of those that are different, if there are any."""
        return next((s for s in self.stages if s.verdict == self.verdict and s.first), None)

    @property
    def largest(self) -> float:
        return max(stage.largest for stage in self.stages)

    @property
    def elsewhere(self) -> list[str]:
        """What of revision, versions and device differs, in words."""
        return [
            f"stored with {name} {', '.join(stored)}; here {', '.join(self.repeated_with[name])}"
            for name, stored in self.stored_with.items()
            if stored != self.repeated_with[name]
        ]

    @property
    def sentence(self) -> str:
        """The verdict, and what it rests on."""
        compared = [stage for stage in self.stages if stage.verdict != "not stored"]
        said: str = self.verdict
        if self.first and self.first.first:
            where = f"; first in {self.first.label}: {self.first.first.sentence}"
            size = f", at most {self.largest:.2g} of {self.tolerance:g}" if said == "within tolerance" else ""
            said += f"{size}{where}"
        missing = len(self.stages) - len(compared)
        return f"{said} ({len(compared)} stages{f'; {missing} more are not stored' if missing else ''})"


def as_json(found: Replay) -> dict[str, Any]:
    """Everything that is known of a replay as JSON values; a size that is infinite has none."""
    stages = [
        {**plain(stage), "largest": _finite(stage.largest)}
        | ({"first": {**plain(stage.first), "size": _finite(stage.first.size)}} if stage.first else {})
        for stage in found.stages
    ]
    return {"verdict": found.verdict, "sentence": found.sentence, **plain(found), "stages": stages}


def rows(found: Replay) -> list[tuple[str, str, str, str]]:
    """(stage, verdict, largest difference, the first one) of each stage, for people."""
    return [
        (
            stage.label,
            stage.verdict,
            f"{stage.largest:.2g}" if stage.first and math.isfinite(stage.largest) else "",
            stage.first.sentence if stage.first else "",
        )
        for stage in found.stages
    ]


def _finite(size: float) -> float | None:
    return size if math.isfinite(size) else None


# Repeating --------------------------------------------------------------------------------------------------------


def replay(
    location: str,
    trial: str,
    *,
    say: Callable[[str], None],
    sweep: str | None = None,
    seed: int | None = None,
    tolerance: float = TOLERANCE,
) -> Replay:
    """Compute one seed of a trial again and compare every stage of it.

    Args:
        location: the store.
        trial: the beginning of its digest, or its label.
        say: told, in a line, what is being done.
        sweep: the sweep that it belongs to; None: it is looked for in all of them.
        seed: None: the first one.

    Raises:
        UnknownSweep, ReplayError: there is no such sweep, trial, seed or result, or this machine plans it otherwise.
        SweepError: the data of the sweep is not here.
    """
    store = Store(location, sets_aside=False)
    journal, plan, kept = find(store, trial, sweep)
    seeds = list(dict.fromkeys(cell["seed"] for cell in kept["cells"]))
    if seed is not None and seed not in seeds:
        raise ReplayError(f"trial {kept['digest'][:12]} has no seed {seed}; it has {', '.join(map(str, seeds))}")
    chosen = seeds[0] if seed is None else seed
    read = sweeps.parse(journal.text(), store.path(f"{journal.folder}/sweep.yaml"))
    spec = _of_seed(_planned(read, plan, kept, store, say), chosen, store)
    names = {cell.transfer.component.content: cell.component for cell in spec.cells}
    with tempfile.TemporaryDirectory(prefix="bottleneck-replay-", ignore_cleanup_errors=True) as folder:
        scratch = Store(folder)
        _repeat(spec, store, scratch, read.resources, say)
        stages = list(spec.stages())
        found = tuple(_compared(stage, store, scratch, names, tolerance) for stage in stages)
        stored_with, repeated_with = (_provenance(stages, side) for side in (store, scratch))
    return Replay(
        sweep=journal.sweep,
        trial=kept["digest"],
        label=kept["design"]["label"],
        seed=chosen,
        tolerance=tolerance,
        stages=found,
        stored_with=stored_with,
        repeated_with=repeated_with,
    )


def find(store: Store, trial: str, sweep: str | None) -> tuple[Journal, dict[str, Any], dict[str, Any]]:
    """The sweep, its plan and the trial in it that a digest's beginning or a label names.

    Raises:
        UnknownSweep: the store has no such sweep, or none at all.
        ReplayError: there is no such trial, or more than one.
    """
    names = [sweep] if sweep else store.names("sweeps")
    if not names:
        raise UnknownSweep(f"storage {store.shown!r} has no sweeps")
    trials: list[tuple[Journal, dict[str, Any], dict[str, Any]]] = []
    for name in names:
        # Of all sweeps, those that are none any more are passed over.
        with contextlib.nullcontext() if sweep else contextlib.suppress(UnknownSweep):
            journal = Journal(store, name)
            plan = journal.plan()
            trials += [(journal, plan, kept) for kept in plan["trials"]]
    found = {t["digest"]: (journal, plan, t) for journal, plan, t in trials if _is_named(t, trial)}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        several = _listed([(journal.sweep, kept) for journal, _, kept in found.values()])
        raise ReplayError(
            f"{trial!r} names {len(found)} trials: {several}; write more digits, or name one with --sweep"
        )
    place = f"sweep {sweep!r}" if sweep else f"storage {store.shown!r}"
    near = _listed(_nearest([(journal.sweep, kept) for journal, _, kept in trials], trial))
    raise ReplayError(
        f"{place} has no trial {trial!r}; near it: {near or 'none'}; `bottleneck status SWEEP` lists them"
    )


def _is_named(kept: Mapping[str, Any], trial: str) -> bool:
    return bool(trial) and (kept["digest"].startswith(trial.lower()) or kept["design"]["label"] == trial)


def _nearest(trials: Sequence[tuple[str, Any]], trial: str) -> list[tuple[str, Any]]:
    def likeness(kept: Mapping[str, Any]) -> float:
        names = (kept["digest"][: max(1, len(trial))], kept["design"]["label"])
        return max(difflib.SequenceMatcher(None, trial, name).ratio() for name in names)

    return sorted(trials, key=lambda each: -likeness(each[1]))[:MOST_NEAR]


def _listed(trials: Sequence[tuple[str, Any]]) -> str:
    shown = [f"{kept['digest'][:12]} ({kept['design']['label']}; {sweep})" for sweep, kept in trials[:MOST_NEAR]]
    return ", ".join(shown) + (", ..." if len(trials) > MOST_NEAR else "")


def _planned(
    read: sweeps.Sweep, plan: Mapping[str, Any], kept: Mapping[str, Any], store: Store, say: Callable[[str], None]
) -> TrialSpec:
    """The trial as this machine plans it. Raises ReplayError if that is another one."""
    components = prepare.components(read, say)
    for name, facts in plan["components"].items():
        here = components[name].content if name in components else "nothing"
        if here != facts["content"]:
            raise ReplayError(
                f"the data of component {name!r} on this machine is not what the trial was computed with: its content "
                f"is {here[:12]} and not {facts['content'][:12]}; bring the same files here"
            )
    point = point_of(read, kept["design"])
    spec = Planner(read, components).trial(point) if point else None
    if spec is None or spec.digest != kept["digest"]:
        results = (store.get("probe", cell["transfer"]) for cell in kept["cells"])
        revision = next((result["revision"] for result in results if result and "revision" in result), "an earlier one")
        raise ReplayError(
            f"this revision plans trial {kept['digest'][:12]} otherwise, so that its stages are other ones; check out "
            f"the revision that computed it: {revision}"
        )
    return spec


def _of_seed(spec: TrialSpec, seed: int, store: Store) -> TrialSpec:
    """The trial with the cells of one seed that the store knows anything of. Raises ReplayError if there are none.

    Rungs change nothing of how a trial ends, and are left out.
    """
    cells = tuple(cell for cell in spec.cells if cell.seed == seed and _is_stored(cell, store))
    if not cells:
        raise ReplayError(
            f"storage {store.shown!r} has no results of trial {spec.digest[:12]}, seed {seed}, to compare with; run "
            "the sweep first"
        )
    return replace(spec, cells=cells, rungs=())


def _is_stored(cell: Cell, store: Store) -> bool:
    """Whether its transfer is stored, or the pretraining before it: that of a run that diverged is all there is."""
    stages: list[StageSpec] = [cell.transfer, *cell.transfer.members]
    return bool(store.existing((stage.kind, stage.digest) for stage in stages))


def _repeat(
    spec: TrialSpec, store: Store, scratch: Store, resources: sweeps.Resources, say: Callable[[str], None]
) -> None:
    """Compute a trial into the scratch store, as a worker of its sweep would.

    A run that was trained as one with others on a device like this one is trained so again, for its numbers depend on
    how many there were; anywhere else it is trained alone.
    """
    import torch

    from trainables.fused import alone
    from trainables.trial import trial_steps

    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, int(resources.cpu)))
    device = "cuda" if resources.gpu and torch.cuda.is_available() else "cpu"
    here = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    stored = ((s.digest, store.get(s.kind, s.digest)) for s in spec.stages() if isinstance(s, PretrainSpec))
    as_then = {digest: result for digest, result in stored if result and result["device"] == here}
    try:
        done = -1
        for progress in trial_steps(spec, scratch, device=device, grouping=alone, repeated=as_then):
            if progress.stages_done != done:
                done = progress.stages_done
                say(f"{done} of {progress.stages_total} stages: {progress.doing}")
    finally:
        torch.set_num_threads(threads)


def _provenance(stages: Sequence[StageSpec], store: Store) -> dict[str, tuple[str, ...]]:
    results = [result for stage in stages if (result := store.get(stage.kind, stage.digest))]
    return {name: tuple(sorted({str(result[name]) for result in results if name in result})) for name in PROVENANCE}


# Comparing --------------------------------------------------------------------------------------------------------


def _compared(stage: StageSpec, store: Store, scratch: Store, names: Mapping[str, str], tolerance: float) -> Compared:
    from trainables.trial import label

    differences = list(_differences(stage, store, scratch))
    shown = [d for d in differences if d.size > tolerance] or differences
    largest = max((d.size for d in differences), default=0.0)
    verdict: Verdict = "bit-equal" if not differences else "different" if largest > tolerance else "within tolerance"
    if store.get(stage.kind, stage.digest) is None:
        verdict, shown, largest = "not stored", [], 0.0
    return Compared(
        kind=stage.kind,
        digest=stage.digest,
        label=label(stage, names),
        verdict=verdict,
        largest=largest,
        first=shown[0] if shown else None,
    )


def _differences(stage: StageSpec, store: Store, scratch: Store) -> Iterator[Difference]:
    """What is not the same to the last bit, steps of a run first."""
    stored, again = (side.get(stage.kind, stage.digest) for side in (store, scratch))
    if stored is None:
        return
    if again is None:
        yield Difference(what="result", size=math.inf, sentence="it has a stored result, and here it has none")
        return
    if isinstance(stage, PretrainSpec):
        yield from curve_differences(stored.pop("loss_curve", None), again.pop("loss_curve", None))
    steps = stored.get("step") if stage.kind == "trajectory" else None
    yield from result_differences(stored, again, steps)
    yield from _tensor_differences(stage, store, scratch)


def curve_differences(stored: Any, again: Any) -> Iterator[Difference]:
    """Where a loss curve differs first, and where most.

    Args:
        stored: (step, mean loss over the steps since the last point), as a pretraining keeps it; None: it keeps none.
        again: the same, from another run of it.
    """
    if stored == again or stored is None:
        return
    if not (_is_curve(stored) and _is_curve(again)) or [p[0] for p in stored] != [p[0] for p in again]:
        yield Difference(what="loss_curve", size=math.inf, sentence="its loss is kept at other steps")
        return
    starts = [0, *(end for end, _ in stored)]
    points = [
        _Point(before, end, loss, repeated)
        for before, (end, loss), (_, repeated) in zip(starts, stored, again, strict=False)
        if loss != repeated
    ]
    first, worst = points[0], max(points, key=lambda point: point.apart)
    same = f"equal through step {first.before}, " if first.before else ""
    most = "" if worst is first else f", most {worst}"
    yield Difference(
        what="loss_curve", size=worst.apart, sentence=f"{same}differs {first}{most}", step=first.before + 1
    )


class _Point(NamedTuple):
    """The mean loss over the steps after `before` up to `end`, as stored and as it came out again."""

    before: int
    end: int
    stored: float
    again: float

    @property
    def apart(self) -> float:
        return _apart(self.stored, self.again)

    def __str__(self) -> str:
        several = self.end > self.before + 1
        place = f"in steps {self.before + 1} to {self.end} (mean" if several else f"at step {self.end} ("
        return f"{place}{' ' if several else ''}loss {_both(self.stored, self.again)})"


def _is_curve(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(point, list) and len(point) == 2 and isinstance(point[0], int) and isinstance(point[1], (int, float))
        for point in value
    )


def result_differences(stored: Any, again: Any, steps: Any = None, name: str = "") -> Iterator[Difference]:
    """What a result says otherwise than the stored one; what only the newer one says is none.

    Args:
        stored: a result, or a value in it.
        again: the same, computed again.
        steps: where a list of as many values belongs to steps: which; None: none does.
        name: of the value.
    """
    if isinstance(stored, Mapping) and isinstance(again, Mapping):
        for key in sorted(stored.keys() - set(NOT_COMPARED)):
            yield from result_differences(stored[key], again.get(key), steps, f"{name}.{key}" if name else key)
    elif isinstance(stored, list) and isinstance(again, list) and len(stored) == len(again):
        of_steps = isinstance(steps, list) and len(steps) == len(stored)
        for position, (one, other) in enumerate(zip(stored, again, strict=True)):
            place = f"{name} at step {steps[position]}" if of_steps else f"{name}[{position}]"
            yield from result_differences(one, other, None, place)
    elif stored != again:
        numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (stored, again))
        size = _apart(stored, again) if numbers and not name.startswith("chosen") else math.inf
        yield Difference(what=name, size=size, sentence=f"{name} {_both(stored, again)}")


def _tensor_differences(stage: StageSpec, store: Store, scratch: Store) -> Iterator[Difference]:
    try:
        stored, again = (side.checksums(stage.kind, stage.digest) for side in (store, scratch))
        for file, checksum in stored.items():
            if again.get(file) == checksum:
                continue
            tensors = store.tensors(stage.kind, stage.digest, file)
            repeated = scratch.tensors(stage.kind, stage.digest, file) if file in again else {}
            yield from tensor_differences(file, tensors, repeated)
    except DamagedEntry as damaged:
        yield Difference(what="files", size=math.inf, sentence=f"the stored entry is damaged: {damaged}")


def tensor_differences(file: str, stored: Mapping[str, Tensor], again: Mapping[str, Tensor]) -> Iterator[Difference]:
    """The tensor that differs most: by the largest difference over its largest number, or by its share of values."""
    found = []
    for name, tensor in stored.items():
        other = again.get(name)
        if other is None or other.shape != tensor.shape or other.dtype != tensor.dtype:
            sentence = f"{file} {name}: another shape or type"
            found.append(Difference(what=f"{file} {name}", size=math.inf, sentence=sentence))
        elif not tensor.equal(other):
            if tensor.is_floating_point():
                size = float((tensor - other).abs().max()) / (float(tensor.abs().max()) or 1.0)
                sentence = f"{file} {name} differs by up to {size:.2g} of its largest number"
            else:
                size = float((tensor != other).double().mean())
                sentence = f"{file} {name} differs in {int((tensor != other).sum())} of {tensor.numel()} values"
            size = size if size <= math.inf else math.inf  # what is not a number is different
            found.append(Difference(what=f"{file} {name}", size=size, sentence=sentence))
    if found:
        yield max(found, key=lambda d: d.size)
    else:
        yield Difference(what=file, size=0.0, sentence=f"the file of {file} is another one, with the same numbers")


def _apart(one: float, other: float) -> float:
    """How far two numbers are apart, on the scale of the tolerance."""
    return abs(one - other) / max(1.0, abs(one), abs(other))


def _both(stored: Any, again: Any) -> str:
    """Two values in as many digits as tell them apart."""
    if isinstance(stored, float) and isinstance(again, float):
        pairs = ((f"{stored:.{digits}g}", f"{again:.{digits}g}") for digits in (4, 6, 9, 17))
        return " and here ".join(next(pair for pair in pairs if pair[0] != pair[1]))
    return f"{str(stored)[:60]} and here {str(again)[:60]}"
