"""What may a terminal be shown? Text of which it obeys nothing.

Names, questions and errors come out of files, stores and servers. A terminal obeys control characters in them: an
escape sequence moves the cursor, sets the window's title, or hides what stands before it, and a right-to-left mark
turns the rest of a line around.
"""

from __future__ import annotations

import logging
from unicodedata import category


def printable(text: str) -> str:
    """A text with every character that a terminal obeys written out, as `\\x1b`; its lines and tabs stay."""
    if text.isprintable():  # nearly all are, and a report asks of a million cells
        return text
    return "".join(c.encode("unicode_escape").decode() if _is_obeyed(c) else c for c in text)


def _is_obeyed(character: str) -> bool:
    """Whether it is a control, a mark of direction or of format, half of a surrogate pair, or no character at all."""
    if character.isprintable() or character in "\n\t":
        return False
    return category(character) != "Zs"  # spaces of every width are shown as such


class PrintableFormatter(logging.Formatter):
    """Log lines for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
