"""The commands about a sweep file: init, validate, plan."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.options import json_option, set_option, shipped, storage_option, tracking_option
from orchestrator.cli.printing import print_pairs, print_table, say, show, write
from orchestrator.cli.reading import sweep_of
from orchestrator.settings import without_password

if TYPE_CHECKING:
    from orchestrator.draft import Draft
    from orchestrator.plan import Assignment, Plan, Price


@click.command(short_help="Write a first sweep file.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=Path("sweep.yaml"))
@click.option(
    "--from",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="A folder of pictures: FOLDER/CLASS/*.jpg or FOLDER/COMPONENT/CLASS/*.jpg. Nothing is asked.",
)
def init(file: Path, folder: Path | None) -> None:
    """Write a sweep file with a comment for every key, small enough for minutes on a laptop. Default: sweep.yaml.

    What it is about is asked on the terminal, or found in a folder of pictures. A file that exists stays as it is.
    """
    from orchestrator import draft as drafts

    if file.suffix not in (".yaml", ".yml"):
        raise drafts.DraftError(f"{file}: found a name without .yaml at its end, which a sweep file has")
    if file.exists():
        raise drafts.DraftError(f"{file} exists and stays as it is; name another file")
    if folder is None and not sys.stdin.isatty():
        raise drafts.DraftError("init asks its questions on a terminal; name a folder of pictures with --from instead")
    draft = drafts.of_folder(folder) if folder else _asked()
    written = drafts.write(draft, file)
    say(f"found {draft.found}")
    say(f"wrote {file}; next:")
    for command in ("validate", "plan", "run"):
        show(shlex.join(["bottleneck", command, str(file)]))
    for command in ("findings", "report"):
        show(shlex.join(["bottleneck", command, written.name]))


def _asked() -> Draft:
    """A draft by what is answered on the terminal; every question has a default."""
    from orchestrator import draft as drafts

    there = drafts.available()
    say(f"Found here, bundled or below BOTTLENECK_DATA: {', '.join(there)}.")

    def among(known: Sequence[str]) -> Callable[[str], list[str]]:
        def read(answer: str) -> list[str]:
            words = list(dict.fromkeys(answer.replace(",", " ").split()))
            unknown = [word for word in words if word not in known]
            if unknown:
                raise click.UsageError(f"there is no {unknown[0]!r}; possible are {', '.join(known)}")
            return words

        return read

    real = ", ".join(there[1:3] if len(there) > 2 else there[:1])
    datasets = click.prompt(
        "Components, one alone is divided by its classes", default=real, value_proc=among(there), err=True
    )
    parts = datasets if len(datasets) > 1 else ["some classes", "the others"]
    question = click.prompt("Question", default=drafts.usual_question(parts), err=True)
    others = f"What to vary beside the mixture ({', '.join(drafts.VARIED)}, or nothing)"
    varied = click.prompt(others, default="nothing", value_proc=among([*drafts.VARIED, "nothing"]), err=True)
    seeds = click.prompt("Repetitions of each trial", default=drafts.SEEDS, type=click.IntRange(1, 100), err=True)
    steps = click.prompt("Steps of each pretraining", default=drafts.STEPS, type=click.IntRange(1, 10**6), err=True)
    kept = [name for name in varied if name != "nothing"]
    return drafts.of_datasets(datasets, question=question, varied=kept, seeds=seeds, steps=steps)


@click.command(short_help="Check a sweep without running it.")
@click.argument("sweep", metavar="SWEEP", required=False, shell_complete=shipped)
@set_option
@click.option("--resolved", is_flag=True, help="Print the sweep with every default filled in.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of sweep files, for editors.")
def validate(sweep: str | None, overrides: Sequence[str], resolved: bool, schema: bool) -> None:
    """Check a sweep file, its data and its networks, without running anything."""
    from orchestrator import sweep as sweeps

    if schema:
        click.echo(json.dumps(sweeps.json_schema(), indent=2))
        return
    if sweep is None:
        raise click.UsageError(f"name a sweep file, or one of: {', '.join(sweeps.canonical())}")
    read = sweep_of(sweep, overrides)
    if resolved:
        write(sweeps.resolved(read))
        return
    from orchestrator.plan import imports
    from orchestrator.prepare import prepare

    if code := imports(read):
        show(f"{read.path}: fine, as far as can be told without importing {', '.join(code)}; `plan` imports it")
        return
    planned, _ = prepare(read, say)
    show(f"{read.path}: fine, {len(planned.trials)} trials with {_seeds(planned)}")


@click.command(short_help="Show what a sweep would do and cost.")
@click.argument("sweep", metavar="SWEEP", shell_complete=shipped)
@set_option
@storage_option
@tracking_option
@click.option("--trials", is_flag=True, help="List the trials in the order of their launch, and what each computes.")
@json_option
def plan(
    sweep: str, overrides: Sequence[str], storage: str | None, tracking_uri: str | None, trials: bool, as_json: bool
) -> None:
    """Show what a sweep would do, what is shared, and what the store already has."""
    from orchestrator.plan import imports, price, schedule
    from orchestrator.prepare import prepare
    from orchestrator.settings import storage_location, tracking_location
    from trainables.store import Store

    planned, sizes = prepare(sweep_of(sweep, overrides), say)
    location = storage_location(storage)
    store = Store(location.value)
    stored = store.existing((stage.kind, digest) for digest, stage in planned.stages.items())
    found = price(planned, sizes, stored)
    tracking = tracking_location(store.folder, tracking_uri)
    if as_json:
        click.echo(json.dumps({"sweep": planned.sweep.name, **_price_json(found), "storage": store.shown}, indent=2))
        return
    lines = [*_price_lines(found, planned), ("storage", f"{store.shown}  (from: {location.origin})")]
    lines.append(("MLflow", f"{without_password(tracking.value)}  (from: {tracking.origin})"))
    for component in planned.components.values():
        lines += _component_lines(planned, component)
    lines += [("imports", name) for name in imports(planned.sweep)]
    print_pairs(f"{planned.sweep.name}: {planned.sweep.question}", lines)
    if trials:
        show()
        header = ("trial", "pretrainings", "probes", "FLOPs", "design")
        print_table(header, [_assignment_row(assignment) for assignment in schedule(planned, sizes, stored)])


def _seeds(planned: Plan) -> str:
    count = len(planned.sweep.seeds)
    return f"{count} seed{'s' if count != 1 else ''} each"


def _price_json(found: Price) -> dict[str, Any]:
    from trainables.spec import as_json

    return {**as_json(found), "share_saved": found.share_saved}


def _price_lines(found: Price, planned: Plan) -> list[tuple[str, str]]:
    from orchestrator.plan import STAGE_COUNTS

    counts = {spoken: getattr(found, name) for name, spoken in STAGE_COUNTS.items()}
    unique = f"{found.stages:,} unique stages: " + ", ".join(f"{n:,} {spoken}" for spoken, n in counts.items() if n)
    from orchestrator.space import Optuna

    searched = ", chosen as results come in: what follows is of as many like them"
    return [
        (
            "trials",
            f"{found.trials:,} with {_seeds(planned)}{searched if isinstance(planned.sweep.search, Optuna) else ''}",
        ),
        ("work", unique),
        ("alone", f"{found.alone:,} stages, if every trial ran alone and shared nothing"),
        ("stored", f"{found.stored:,} of them are in the store"),
        ("to do", f"{found.examples:,} examples, about {found.flops:.2e} FLOPs"),
        ("saved", f"{100 * found.share_saved:.1f} % of the arithmetic of running every trial alone"),
        ("detects", _detects(len(planned.sweep.seeds))),
    ]


def _detects(seeds: int) -> str:
    """The smallest gap that so many seeds can tell from 0."""
    from orchestrator.plan import detectable

    found = detectable(seeds)
    if found is None:
        return "nothing about other seeds: with one seed there is no seed uncertainty"
    return f"gaps from {found:.1f} times their standard deviation over seeds on (80 % power, two-sided 5 %)"


def _assignment_row(assignment: Assignment) -> tuple[str, ...]:
    kinds = [stage.kind for stage in assignment.first_needs]
    trial = assignment.trial
    counts = (str(kinds.count("pretrain")), str(kinds.count("probe")), f"{assignment.flops:.2e}")
    return (trial.digest[:12], *counts, trial.design.label)


def _component_lines(planned: Plan, component: Any) -> list[tuple[str, str]]:
    name = next(n for n, c in planned.components.items() if c is component)
    channels, height, width = component.image_shape
    return [
        (
            "component",
            f"{name}: {component.source.dataset}, {component.num_classes} classes, {height}x{width}x{channels}, "
            f"{component.num_train:,} train, {component.num_validation:,} validation, {component.num_test:,} test",
        )
    ]
