"""Where do settings come from? A flag, then the environment, then the default."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from trainables.errors import without_password as without_password

DEFAULT_STORAGE = "bottleneck-runs"
LEAST_SECRET = 6  # characters; what is shorter stands in a text by chance


class Setting(NamedTuple):
    """A value, and who said so."""

    value: str
    origin: str


def storage_location(flag: str | None = None, environment: Mapping[str, str] = os.environ) -> Setting:
    """Where results are kept."""
    return _first(("--storage", flag), ("BOTTLENECK_STORAGE", environment.get("BOTTLENECK_STORAGE"))) or Setting(
        DEFAULT_STORAGE, "default"
    )


def tracking_location(
    storage_folder: str | None, flag: str | None = None, environment: Mapping[str, str] = os.environ
) -> Setting:
    """Which MLflow server or database shows the runs.

    Args:
        storage_folder: the store's folder, where the default database lies; None for an object store, whose default
            database lies in the working directory.
    """
    said = _first(("--tracking-uri", flag), ("MLFLOW_TRACKING_URI", environment.get("MLFLOW_TRACKING_URI")))
    # SQLAlchemy reads a percent sign as the start of an escape.
    folder = str(storage_folder or Path.cwd()).replace("%", "%25")
    return said or Setting(f"sqlite:///{folder}/mlflow.db", "default")


def _first(*candidates: tuple[str, str | None]) -> Setting | None:
    return next((Setting(value, origin) for origin, value in candidates if value), None)


def without_secrets(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """A text without passwords of URIs and without what the environment keeps in variables that name a secret.

    For errors and logs of code that is not ours: an exception may quote the request that failed.
    """
    for name, value in environment.items():
        if len(value) >= LEAST_SECRET and re.search(r"SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIAL|API_?KEY", name):
            text = text.replace(value, "***")
    return without_password(text)
