"""The lines of the table, in its order. Each is prepared in its own module, which imports what is heavy when it is."""

from benchmarks.lines import commands, gpu, plan, probe, results, share, sweep, tracking, trajectory, trials

LINES = (
    sweep.LINE,
    share.LINE,
    probe.SCIKIT,
    probe.PAPER,
    *trials.LINES,
    tracking.LINE,
    results.LINE,
    plan.LINE,
    commands.LINE,
    trajectory.LINE,
    *gpu.LINES,
)
