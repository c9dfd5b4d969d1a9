"""What may a terminal be shown? Text of which it obeys nothing.

Names, questions and errors come out of files, stores and servers. A terminal obeys control characters in them: an
escape sequence moves the cursor, sets the window's title, or hides what stands before it, and a right-to-left mark
turns the rest of a line around.
"""

from __future__ import annotations

import logging


def printable(text: str) -> str:
    """A text with every character that a terminal obeys written out, as `\\x1b`; its lines stay lines."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


class PrintableFormatter(logging.Formatter):
    """Log lines for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
