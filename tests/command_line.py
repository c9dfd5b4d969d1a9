"""The `bottleneck` command, as tests call it: in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys


def heeds_ctrl_c() -> None:
    """Before a child begins: a shell that runs the tests in the background has let them ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "orchestrator.cli", *map(str, arguments)]


def bottleneck(*arguments: object, expect: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end, with `environment` beside that of the tests; its exit code has to be `expect`."""
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    assert done.returncode == expect, done.stderr
    return done
