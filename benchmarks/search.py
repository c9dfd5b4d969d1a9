"""Does a search find the best mixture in fewer trials than random draws? Against the known optimum of a whole lattice.

    python benchmarks/search.py search-competing-features search-digits --storage bottleneck-runs

Every mixture of the sweep's simplex is computed once, into a store; so the optimum is known, and each search afterwards
only looks up what its trials reached. All searches choose by validation; the table says what they found on validation
and on test examples. Trials run in this process, one after the other, without Ray; stopped, it continues.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median, quantiles

from orchestrator import results, space, sweep
from orchestrator.objectives import Objective, scores
from orchestrator.prepare import prepare
from orchestrator.search import Optimiser
from trainables.store import Store

Mixture = tuple[tuple[str, float], ...]
WORST_GAP = Objective("worst_gap")


@dataclass(frozen=True)
class Reached:
    """The worst gap of a mixture, in [-1, 1]."""

    validation: float
    test: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweeps", nargs="+", help="names or paths of sweeps with one simplex and the search optuna")
    parser.add_argument("--samplers", default="tpe,nsga2,qmc", help="of Optuna, beside random and sobol")
    parser.add_argument("--seeds", type=int, default=10, help="searches of each kind")
    parser.add_argument("--trials", type=int, default=40, help="trials of each search")
    parser.add_argument("--storage", default="bottleneck-runs", help="the store")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    options = parser.parse_args()
    measured = {}
    for name in options.sweeps:
        lattice = measure_lattice(name, Store(options.storage))
        kinds = ["random", "sobol", *options.samplers.split(",")]
        found = {
            kind: [search(name, kind, seed, options.trials, lattice) for seed in range(options.seeds)] for kind in kinds
        }
        print_table(name, lattice, found)
        measured[name] = {
            "optimum": asdict(best(lattice.values())),
            "mixtures": len(lattice),
            "trials": options.trials,
            "searches": {kind: [[asdict(r) for r in run] for run in runs] for kind, runs in found.items()},
        }
        if options.json:
            options.json.write_text(json.dumps(measured, indent=1) + "\n")


def measure_lattice(name: str, store: Store) -> dict[Mixture, Reached]:
    """What every mixture of the sweep's simplex reaches, computed where the store does not have it."""
    from trainables.trial import run_trial

    plan, _ = prepare(sweep.read(sweep.locate(name), ["search=grid"]), say)
    lookup, written = results.store_lookup(store), plan.as_json()
    found: dict[Mixture, Reached] = {}
    for number, (trial, design) in enumerate(zip(plan.trials, written["trials"], strict=True), 1):
        if scores(design["cells"], lookup) is None:
            begin = time.monotonic()
            run_trial(trial, store, device="cpu")
            say(f"{name}: {number} of {len(plan.trials)} mixtures, {time.monotonic() - begin:.1f} s")
        validation = WORST_GAP.value(scores(design["cells"], lookup) or [], None)
        assert validation is not None, "no trial of these sweeps diverges"
        gaps: dict[str, list[float]] = {}
        for row in results.trial_rows(written, design, lookup, {}):
            gaps.setdefault(row["component"], []).append(row["direct_probe_accuracy"] - row["transfer_accuracy"])
        found[trial.design.mixture] = Reached(validation, max(map(fmean, gaps.values())))
    return found


def search(name: str, kind: str, seed: int, trials: int, lattice: Mapping[Mixture, Reached]) -> list[Reached]:
    """What the best mixture of a search reaches after each of its trials; validation says which is the best."""
    tried = itertools.islice(mixtures(name, kind, seed, trials, lattice), trials)
    return list(itertools.accumulate((lattice[mixture] for mixture in tried), lambda *two: best(two)))


def mixtures(name: str, kind: str, seed: int, trials: int, lattice: Mapping[Mixture, Reached]) -> Iterator[Mixture]:
    """The mixtures that a search tries, in order."""
    if kind in ("random", "sobol"):
        asked = f"search={{{kind}: {{samples: {trials}, seed: {seed}}}}}"
        yield from (point.weights for point in space.points(sweep.read(sweep.locate(name), [asked]), {}))
        return
    asked = f"search={{optuna: {{samples: {trials}, sampler: {kind}, objective: worst_gap, seed: {seed}}}}}"
    optimiser = Optimiser(sweep.read(sweep.locate(name), [asked]), {})
    while proposal := optimiser.ask():
        yield proposal.point.weights
        optimiser.tell(proposal, [lattice[proposal.point.weights].validation])


def best(reached: Iterable[Reached]) -> Reached:
    """The one with the smallest worst gap on validation, the first of equals."""
    return min(reached, key=lambda found: found.validation)


def print_table(name: str, lattice: Mapping[Mixture, Reached], found: Mapping[str, list[list[Reached]]]) -> None:
    optimum = best(lattice.values())
    trials = len(next(iter(found.values()))[0])
    print(f"\n{name}: {len(lattice)} mixtures, the best with a worst gap of {100 * optimum.validation:.2f} points")
    print(f"on validation ({100 * optimum.test:.2f} on test); after {trials} trials, in points, medians [quartiles]:")
    print(f"{'search':8}{'n':>4}{'above optimum':>22}{'within 2':>10}{'trials to 2':>13}{'test worst gap':>22}")
    for kind, runs in found.items():
        regrets = [100 * (run[-1].validation - optimum.validation) for run in runs]
        tests = [100 * run[-1].test for run in runs]
        needed = [next((i for i, r in enumerate(run, 1) if near(r, optimum)), math.inf) for run in runs]
        near_it = sum(near(run[-1], optimum) for run in runs)
        print(
            f"{kind:8}{len(runs):4}{spread(regrets):>22}{f'{near_it}/{len(runs)}':>10}{median(needed):13g}{spread(tests):>22}"
        )
    if "tpe" in found:
        wins = [t[-1].validation - r[-1].validation for t, r in zip(found["tpe"], found["random"], strict=True)]
        print(f"tpe beats random in {sum(w < 0 for w in wins)}, loses in {sum(w > 0 for w in wins)} of {len(wins)}")


def near(reached: Reached, optimum: Reached) -> bool:
    return reached.validation <= optimum.validation + 0.02


def spread(values: Sequence[float]) -> str:
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * [values[0]]
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
