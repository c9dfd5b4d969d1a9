"""A bucket of an S3 server on this machine, for tests: moto's, made to decide conditions as Amazon's does, and to fail
in the ways that other endpoints do."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from email.utils import format_datetime, formatdate, parsedate_to_datetime
from typing import Any

import boto3
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import make_server

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "s3cret", "AWS_EC2_METADATA_DISABLED": "true"}
REFUSAL = b"<Error><Code>%s</Code><Message>no</Message></Error>"


class Bucket:
    """An empty bucket, and the server that it lies on."""

    def __init__(self) -> None:
        self.name = f"bucket-{uuid.uuid4().hex[:8]}"
        self.requests: list[str] = []  # methods
        self.read_only = False
        self.conditions = "decided"  # or "ignored" or "refused"
        self.clock_ahead_s = 0  # of everything the server says
        self.date_ahead_s = 0  # of its date alone: as if so much time had passed since all was written
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._one = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Handler)
        self._server.bucket = self
        self.endpoint = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.client = boto3.client("s3", endpoint_url=f"http://{self.endpoint}", region_name="us-east-1")
        self.client.create_bucket(Bucket=self.name)

    def location(self, folder: str, keys: str = "") -> str:
        return f"s3://{keys}{self.name}/{folder}?endpoint_override={self.endpoint}&scheme=http"

    def age(self, name: str, seconds: float) -> None:
        """Let the objects of this name be older."""
        for key, found in s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[self.name].keys.items():
            if key.endswith(f"/{name}"):
                found.last_modified -= timedelta(seconds=seconds)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        method = environ["REQUEST_METHOD"]
        self.requests.append(method)
        conditional = "HTTP_IF_NONE_MATCH" in environ or "HTTP_IF_MATCH" in environ
        if self.read_only and method in ("PUT", "POST", "DELETE"):
            return _refuse(start, "403 Forbidden", b"AccessDenied")
        if conditional and self.conditions == "refused":
            return _refuse(start, "501 Not Implemented", b"NotImplemented")
        if self.conditions == "ignored":
            environ.pop("HTTP_IF_NONE_MATCH", None)
            environ.pop("HTTP_IF_MATCH", None)

        def start_later(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start(status, [*map(self._later, headers)], *rest)

        with self._one:  # moto looks at a condition and then writes; Amazon does both at once
            return self._moto(environ, start_later)

    def _later(self, header: tuple[str, str]) -> tuple[str, str]:
        name, value = header
        if name.lower() != "last-modified":
            return header
        return name, format_datetime(parsedate_to_datetime(value) + timedelta(seconds=self.clock_ahead_s), usegmt=True)


class _Handler(MotoRequestHandler):
    def log_request(self, *_: Any) -> None:
        """Nothing is said of a request."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        bucket = self.server.bucket
        return formatdate(time.time() + bucket.clock_ahead_s + bucket.date_ahead_s, usegmt=True)


def _refuse(start: Callable[..., Any], status: str, code: bytes) -> list[bytes]:
    start(status, [("Content-Type", "application/xml")])
    return [REFUSAL % code]


@contextlib.contextmanager
def bucket() -> Iterator[Bucket]:
    """A bucket, with keys to it in the environment for as long as it lasts."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    made = Bucket()
    try:
        yield made
    finally:
        made.close()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
