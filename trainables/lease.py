"""Who computes a stage where no kernel can be asked? Leases: objects of a bucket, written only on a condition.

    <storage>/leases/<name>   {"owner": ..., "process": ..., "expiry_s": 60, "renewal": 3}

A lease is created only if there is none (`If-None-Match: *`) and renewed only if it is still the one that was written
last (`If-Match`). An owner that dies stops renewing; a lease that has not been renewed for `expiry_s` may be taken
over, again by `If-Match`, so that of two who try only one succeeds. Its age is the `Date` of the server's answer minus
the object's `LastModified`: both are the server's, so no clock of ours matters. An owner that has died on the machine
that asks is known to be dead, and is not waited for.

An owner that was stalled for longer than the expiry comes back to find its lease taken. Then two compute one stage and
both put it: each result names the files that were written with it, so whichever is written last is whole. Time is lost,
nothing else. The same holds where an endpoint ignores conditions on deletes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

log = logging.getLogger(__name__)

EXPIRY_S = 60.0  # without a renewal; the owner's own value stands in its lease
RENEWALS = 4  # in the time of an expiry: so many may fail before the lease is lost
REFUSED = {404, 409, 412}  # gone; being written by another; not what it was


class Unconditional(Exception):
    """The endpoint does not decide conditions, so it has no leases."""


class Leases:
    """The leases of one storage location on S3. Every method raises OSError if the endpoint cannot be asked."""

    def __init__(self, location: str, root: str, region: str, expiry_s: float = EXPIRY_S) -> None:
        """The leases of `location`, whose files lie below `root`, bucket/folder. Raises ImportError without boto3, and
        Unconditional."""
        self._bucket, _, self._prefix = root.partition("/")
        self._expiry_s = expiry_s
        self._client = _client(location, region)
        self._require_conditions()

    def acquire(self, name: str) -> Lease | None:
        """The lease, renewed by a thread until it is released; None if another holds it."""
        lease = Lease(self, name, self._expiry_s)
        there = self.write(lease, IfNoneMatch="*")
        if there is not None and there.is_over:
            there = self.write(lease, IfMatch=there.etag)
        if lease.etag is None:
            return None
        lease.keep()
        return lease

    def is_held(self, name: str) -> bool:
        there = self._look(name)
        return there is not None and not there.is_over

    def names(self) -> list[str]:
        """Every lease that is there, held or not."""
        prefix = self._key("")
        with _os_errors():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
            return [item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", ())]

    def remove_stale(self, name: str) -> bool:
        """Remove a lease whose owner is dead; returns whether it did."""
        there = self._look(name)
        return there is not None and there.is_over and self.delete(name, there.etag)

    def write(self, lease: Lease, **condition: str) -> There | None:
        """Write a lease on a condition. On success `lease.etag` is new; else it is None, and this is what is there."""
        key, body = self._key(lease.name), lease.body()
        try:
            with _os_errors():
                lease.etag = self._client.put_object(Bucket=self._bucket, Key=key, Body=body, **condition)["ETag"]
            return None
        except _Refused:
            there = self._look(lease.name)
            # A write whose answer was lost is refused by itself when it is repeated.
            lease.etag = there.etag if there is not None and there.owner == lease.owner else None
            return there

    def delete(self, name: str, etag: str) -> bool:
        """Delete a lease if it is still the one with this tag."""
        try:
            with _os_errors():
                self._client.delete_object(Bucket=self._bucket, Key=self._key(name), IfMatch=etag)
        except _Refused:
            return False
        return True

    def _look(self, name: str) -> There | None:
        try:
            with _os_errors():
                answer = self._client.get_object(Bucket=self._bucket, Key=self._key(name))
                body = answer["Body"].read()
        except _Refused:
            return None
        try:
            now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
            age = (now - answer["LastModified"]).total_seconds()
        except (KeyError, ValueError, TypeError):  # without the server's clock nothing shows that the lease is over
            age = 0.0
        return There(answer["ETag"], body, age)

    def _require_conditions(self) -> None:
        """Some endpoints answer that they have no conditions, others take a write and do not look at its condition."""
        key = self._key(f"check-{uuid.uuid4().hex}")
        answers = []
        try:
            for _ in range(2):
                try:
                    with _os_errors():
                        self._client.put_object(Bucket=self._bucket, Key=key, Body=b"", IfNoneMatch="*")
                    answers.append("written")
                except _Refused:
                    answers.append("refused")
        finally:
            with contextlib.suppress(OSError, _Refused, Unconditional), _os_errors():
                self._client.delete_object(Bucket=self._bucket, Key=key)
        if answers != ["written", "refused"]:
            raise Unconditional("it takes conditional writes and does not look at their condition")

    def _key(self, name: str) -> str:
        return "/".join(filter(None, (self._prefix, "leases", name))) + ("" if name else "/")


class Lease:
    """A lease that this process holds, or tries to."""

    def __init__(self, leases: Leases, name: str, expiry_s: float) -> None:
        self.name, self.etag = name, None  # type: str, str | None
        self._leases, self._expiry_s = leases, expiry_s
        self.owner, self._renewal = uuid.uuid4().hex, 0
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease {name[:12]}", daemon=True)

    def body(self) -> bytes:
        """What the object holds; never the same twice, so that its tag is not either."""
        self._renewal += 1
        value = {"owner": self.owner, "process": this_process(), "expiry_s": self._expiry_s, "renewal": self._renewal}
        return json.dumps(value).encode()

    def keep(self) -> None:
        self._thread.start()

    def release(self) -> None:
        self._released.set()
        self._thread.join()
        if self.etag is not None:
            with contextlib.suppress(OSError):  # nobody renews it any more, so it ends by itself
                self._leases.delete(self.name, self.etag)

    def _renew(self) -> None:
        while not self._released.wait(self._expiry_s / RENEWALS):
            last = self.etag
            assert last is not None
            try:
                self._leases.write(self, IfMatch=last)
            except OSError as error:  # of the network; the next renewal may still be in time
                log.info("the lease on %s was not renewed: %s", self.name[:12], error)
            if self.etag is None:
                log.warning(
                    "the lease on %s was lost: this process was stalled for more than %g s and another has taken it "
                    "over; both write the same entry, so nothing is lost but time",
                    self.name[:12],
                    self._expiry_s,
                )
                return


class There(NamedTuple):
    """A lease as the server shows it."""

    etag: str
    body: bytes
    age: float  # seconds since it was written, by the server's clock

    @property
    def is_over(self) -> bool:
        """Whether its owner is dead, or has had every chance to show that it is not."""
        lease = self._lease
        return self.age > float(lease.get("expiry_s", EXPIRY_S)) or is_dead(lease.get("process", ""))

    @property
    def owner(self) -> str | None:
        return self._lease.get("owner")

    @property
    def _lease(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.body))
        except ValueError:  # not written by us
            return {}


class _Refused(Exception):
    """The condition of a request does not hold."""


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """What the endpoint refuses or cannot do, in words that callers know."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = error.response.get("Error", {}).get("Code")
        if code == "NotImplemented" or status == 501:
            raise Unconditional("it has no conditional writes") from error
        if status in REFUSED and code != "NoSuchBucket":
            raise _Refused from error
        raise OSError(str(error)) from error
    except BotoCoreError as error:
        raise OSError(str(error)) from error


def _client(location: str, region: str) -> Any:
    """A boto3 client that goes where pyarrow goes for the same URI."""
    import boto3
    from botocore.config import Config

    uri = urlsplit(location)
    asked = {name: values[-1] for name, values in parse_qs(uri.query).items()}
    options: dict[str, Any] = {}
    user = uri.netloc.rpartition("@")[0]
    if user:
        key, _, secret = user.partition(":")
        options |= {"aws_access_key_id": unquote(key), "aws_secret_access_key": unquote(secret)}
    endpoint = asked.get("endpoint_override")
    if endpoint:
        options["endpoint_url"] = endpoint if "://" in endpoint else f"{asked.get('scheme', 'https')}://{endpoint}"
    if asked.get("tls_verify_certificates", "true").lower() in ("false", "0"):
        options["verify"] = False
    elif "tls_ca_file_path" in asked:
        options["verify"] = asked["tls_ca_file_path"]
    elsewhere = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config = Config(
        connect_timeout=10,
        read_timeout=10,
        retries={"mode": "standard", "max_attempts": 4},
        s3={"addressing_style": "path" if elsewhere else "auto"},
    )
    return boto3.Session().client("s3", region_name=region or None, config=config, **options)


# Processes ------------------------------------------------------------------------------------------------------------


def this_process() -> str:
    """A name of this process that no other has, on any machine, before or after."""
    return f"{_machine()}/{os.getpid()}/{_start_of(os.getpid())}"


def is_dead(process: str) -> bool:
    """Whether a process is known to have ended: one of this machine that is no more. Of others nothing is known."""
    machine, _, rest = process.partition("/")
    pid, _, start = rest.partition("/")
    return bool(machine) and machine == _machine() and _start_of(int(pid)) != start


@functools.cache
def _machine() -> str:
    """This boot of this kernel, and the namespace that our process numbers are of; empty where it cannot be told."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """When a process started, in ticks since boot; "-" if there is none, or only what its parent has yet to bury."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "-"
    return "-" if fields[0] in "ZX" else fields[19]
