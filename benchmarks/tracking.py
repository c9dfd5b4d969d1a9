"""How fast do runs get into MLflow? Ours against Ray's own callback, and the time that `bottleneck sync` takes.

    export PYTHONPATH=.:tests
    python benchmarks/tracking.py                      # n = 200 trials, median of 3, on SQLite
    python benchmarks/tracking.py --server             # also on a server with a login on PostgreSQL, files in S3
    python benchmarks/tracking.py --json tracking.json

The sweep is made up (tests/made_up_sweeps.py): 3 components, 2 seeds, a loss curve of 20 points and two JSON files for
every trial. Ray's MLflowLoggerCallback is given the same parameters, metrics, points and files, on the same database or
server, turn and turn about. It is given fewer trials, and what is compared is runs per second. The server and its
database run on the same machine, with durable commits. `--server` needs PostgreSQL, boto3, moto and Flask-WTF.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from made_up_sweeps import MadeUp, made_up
from tracking_servers import tracking_server

CURVE_POINTS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="that we write")
    parser.add_argument("--peer-trials", type=int, default=20, help="that Ray's callback writes")
    parser.add_argument("--catch-up", type=int, default=1000, help="trials that are synced; 0: none")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--server", action="store_true", help="measure the server too")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    output = options.json.absolute() if options.json else None
    writers: list[dict[str, Any]] = []
    syncs: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bottleneck-benchmark-")))
        os.chdir(folder)  # Ray's callback leaves its files in the working directory
        places = {"SQLite": f"sqlite:///{folder}/mlflow.db"}
        if options.server:
            server = stack.enter_context(tracking_server(workers=2, durable=True))
            os.environ.update(server.login)
            places["server"] = server.uri
        for place, uri in places.items():
            ways = {"ours": (ours, options.trials), "Ray's callback": (rays, options.peer_trials)}
            for write, _ in ways.values():  # import, connect, create the tables
                write(uri, made_up(f"warm-up-{uuid.uuid4().hex}", trials=2))
            writers += compared(place, uri, ways, options.repeats)
            if options.catch_up:
                syncs.append(caught_up(place, uri, options.catch_up))
    for lines in (writers, syncs):
        print_table(lines)
    if output:
        output.write_text(json.dumps({"writers": writers, "syncs": syncs}, indent=1) + "\n")


def compared(
    place: str, uri: str, ways: dict[str, tuple[Callable[[str, MadeUp], None], int]], repeats: int
) -> list[dict[str, Any]]:
    """How many runs each way writes in a second, turn and turn about."""
    rates: dict[str, list[float]] = {way: [] for way in ways}
    requests: dict[str, float] = {}
    for _ in range(repeats):
        for way, (write, trials) in ways.items():
            sweep = made_up(f"{place}-{way}-{uuid.uuid4().hex}", trials=trials, points=CURVE_POINTS)
            with counted() as calls:
                begun = time.monotonic()
                write(uri, sweep)
                rates[way].append(trials / (time.monotonic() - begun))
            requests[way] = len(calls) / trials
            print(f"{place}: {way}: {rates[way][-1]:.2f} runs/s", file=sys.stderr, flush=True)
    peer = statistics.median(rates["Ray's callback"])
    return [
        {
            "where": place,
            "way": way,
            "trials": trials,
            "runs/s": round(statistics.median(rates[way]), 2),
            "range": f"{min(rates[way]):.2f} to {max(rates[way]):.2f}",
            "requests/run": round(requests[way], 1),
            "times Ray's": round(statistics.median(rates[way]) / peer, 1),
        }
        for way, (_, trials) in ways.items()
    ]


def caught_up(place: str, uri: str, trials: int) -> dict[str, Any]:
    """Seconds of `sync` for a sweep of which MLflow has nothing, and for one of which it has everything."""
    sweep = made_up(f"{place}-sync-{uuid.uuid4().hex}", trials=trials, points=CURVE_POINTS)
    line: dict[str, Any] = {"where": place, "way": "sync", "trials": trials}
    for name, expected in (("from nothing", trials), ("again", 0)):
        with counted() as calls:
            begun = time.monotonic()
            assert sweep.sync(uri) == expected
            line[f"{name}, s"] = round(time.monotonic() - begun, 2)
        line[f"{name}, requests"] = len(calls)
    print(line, file=sys.stderr, flush=True)
    return line


def ours(uri: str, sweep: MadeUp) -> None:
    outcome = sweep.track(uri, timeout_s=3600)
    assert outcome.synced, outcome


def rays(uri: str, sweep: MadeUp) -> None:
    """The callback, fed as Ray Tune feeds it: a start, a result for every point, the last with all numbers, an end."""
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name=sweep.plan["sweep"], save_artifact=True)
    callback.setup()
    with tempfile.TemporaryDirectory() as name:
        for record in sweep.records():
            trial = Trial(config=dict(record.params), local_path=f"{name}/{record.digest}", name=record.name)
            Path(trial.local_path).mkdir()
            for file, text in record.artifacts.items():
                Path(trial.local_path, file).write_text(text, encoding="utf-8")
            callback.log_trial_start(trial)
            for iteration, (step, loss) in enumerate(record.loss_curve):
                last = dict(record.metrics) if iteration == len(record.loss_curve) - 1 else {}
                callback.log_trial_result(iteration, trial, {"training_iteration": max(step, 1), "loss": loss, **last})
            callback.log_trial_end(trial)


class Trial(SimpleNamespace):
    """As much of Ray's trial as the callback asks for."""

    def __hash__(self) -> int:
        return hash(self.local_path)

    def __str__(self) -> str:
        return str(self.name)


@contextlib.contextmanager
def counted() -> Iterator[list[str]]:
    """The HTTP requests that are made."""
    import requests

    made: list[str] = []
    send = requests.Session.request

    def request(session: Any, method: str, url: str, *rest: Any, **options: Any) -> Any:
        made.append(url)
        return send(session, method, url, *rest, **options)

    requests.Session.request = request  # type: ignore[method-assign]
    try:
        yield made
    finally:
        requests.Session.request = send  # type: ignore[method-assign]


def print_table(lines: list[dict[str, Any]]) -> None:
    if lines:
        cells = [list(lines[0]), *([str(value) for value in line.values()] for line in lines)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
        for row in cells:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        print()


if __name__ == "__main__":
    main()
