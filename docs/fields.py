"""The fields of our classes are explained by the comments behind them: the API pages show these as attributes."""

from __future__ import annotations

from typing import Any

import griffe


class Fields(griffe.Extension):
    """Adds a section of attributes to the docstring of a class whose fields have comments."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        if cls.docstring is None:
            return
        source = cls.lines_collection[cls.filepath]
        fields = [member for member in cls.members.values() if member.is_attribute and member.lineno]
        said = {field.name: source[field.lineno - 1].partition("  # ")[2] for field in fields}
        listed = [f"    {name}: {comment}" for name, comment in said.items() if comment]
        if listed:
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(listed)
