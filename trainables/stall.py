"""How long may one thing take without a word? A limit on what hangs: foreign code, a file server that is gone.

The limit is $BOTTLENECK_STALL_MINUTES, three hours if it is not set: of reading one dataset before planning, and in a
trial of one stage, or of a second's worth of pretraining. It has to be longer than the longest of them.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from trainables.errors import UserError

VARIABLE = "BOTTLENECK_STALL_MINUTES"
DEFAULT_MINUTES = 180.0
GRACE_S = 60.0  # after which a process that lets no other thread run ends without a word

Say = Callable[[str, str], None]  # (where the thread is: `load, at my_data.py:12`; its whole stack)


def limit_s(environment: Mapping[str, str] = os.environ) -> float:
    """The limit in seconds. Raises UserError if it is no positive number of minutes."""
    value = environment.get(VARIABLE)
    try:
        minutes = float(value) if value else DEFAULT_MINUTES
    except ValueError:
        minutes = 0.0
    if not 0 < minutes <= threading.TIMEOUT_MAX / 120:
        raise UserError(f"{VARIABLE} is {value!r}; it is a number of minutes above 0, {DEFAULT_MINUTES:g} if not set")
    return minutes * 60


@contextlib.contextmanager
def limited(seconds: float, say: Say) -> Iterator[None]:
    """End this process, at once and with exit code 1, if the block takes longer; `say` is told before where it is."""
    thread = threading.get_ident()

    def end() -> None:
        try:
            stack = traceback.extract_stack(sys._current_frames()[thread])
            last = stack[-1]
            say(f"{last.name}, at {Path(last.filename).name}:{last.lineno}", "".join(stack.format()))
        finally:
            os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    faulthandler.dump_traceback_later(seconds + GRACE_S, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()
