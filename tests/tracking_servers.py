"""A tracking server as a group runs it: MLflow with a login on PostgreSQL, files in an object store; on loopback."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

LOGIN = "sweeper"
BUCKET = "mlflow"


def postgres_folder() -> Path | None:
    """Where the programs of PostgreSQL lie; None: it is not installed."""
    on_path = shutil.which("initdb")
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return Path(on_path).resolve().parent if on_path else versions[-1].parent if versions else None


@dataclass
class Process:
    """A server and the processes that it starts, which end together."""

    command: list[str]
    environment: dict[str, str]
    log: Path
    ready: Callable[[], bool]
    user: str | None = None  # None: ours
    _running: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 300) -> None:
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=self.log.parent,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **({"user": self.user, "group": self.user, "extra_groups": []} if self.user else {}),  # type: ignore[call-overload]
            )
        deadline = time.monotonic() + seconds
        while not self.ready():
            assert self._running.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            time.sleep(0.05)

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self._running is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._running.pid, how)
        try:
            self._running.wait(20)
        finally:
            with contextlib.suppress(ProcessLookupError):  # whatever is left of the group
                os.killpg(self._running.pid, signal.SIGKILL)
            self._running.wait(20)
            self._running = None


@dataclass
class TrackingServer:
    """MLflow's server, and what it stands on."""

    uri: str
    password: str
    process: Process
    database: str  # URI, with a password of its own
    objects: dict[str, str]  # settings of the object store

    @property
    def login(self) -> dict[str, str]:
        """What a user sets to log in."""
        return {"MLFLOW_TRACKING_USERNAME": LOGIN, "MLFLOW_TRACKING_PASSWORD": self.password}

    def kept(self) -> bytes:
        """All that it keeps of runs: the database as text, and every object."""
        import boto3

        programs = postgres_folder()
        assert programs is not None
        uri = self.database.replace("postgresql+psycopg2", "postgresql")
        dump = subprocess.run([programs / "pg_dump", "--inserts", uri], check=True, capture_output=True).stdout
        s3 = boto3.client(
            "s3",
            endpoint_url=self.objects["MLFLOW_S3_ENDPOINT_URL"],
            region_name=self.objects["AWS_DEFAULT_REGION"],
            aws_access_key_id=self.objects["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.objects["AWS_SECRET_ACCESS_KEY"],
        )
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return dump + b"".join(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys)


@contextlib.contextmanager
def tracking_server(*, workers: int = 2, durable: bool = False) -> Iterator[TrackingServer]:
    """MLflow on PostgreSQL and S3, with a login.

    Args:
        workers: processes that answer requests.
        durable: let PostgreSQL wait for the disk, as it does of itself; tests need not.
    """
    # Not in a test's own folder: PostgreSQL runs as another user, who has to be able to go there.
    with tempfile.TemporaryDirectory(prefix="bottleneck-server-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        database = stack.enter_context(_postgres(folder / "postgres", durable))
        objects = stack.enter_context(_object_store(folder))
        port, password = free_port(), secrets.token_hex(16)
        settings = folder / "login.ini"
        settings.touch(mode=0o600)
        settings.write_text(
            "[mlflow]\ndefault_permission = READ\nauthorization_function = "
            f"mlflow.server.auth:authenticate_request_basic_auth\ndatabase_uri = {database}/logins\n"
            "auth_cache_ttl_seconds = 60\n"  # of itself a password is hashed anew for every request
        )
        command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--workers", str(workers), "--artifacts-destination", f"s3://{BUCKET}/runs"]
        environment = {
            **os.environ,
            **objects,
            "MLFLOW_BACKEND_STORE_URI": f"{database}/runs",
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_AUTH_ADMIN_USERNAME": LOGIN,
            "MLFLOW_AUTH_ADMIN_PASSWORD": password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # jobs for language models, in processes of their own
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        }
        uri = f"http://127.0.0.1:{port}"
        process = Process(command, environment, folder / "mlflow.log", lambda: answers(f"{uri}/health"))
        stack.callback(process.stop)
        process.start()
        yield TrackingServer(uri, password, process, f"{database}/runs", objects)


@contextlib.contextmanager
def _postgres(folder: Path, durable: bool) -> Iterator[str]:
    """A cluster with two databases; gives its URI without the name of one."""
    import psycopg2

    programs = postgres_folder()
    assert programs is not None
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    folder.mkdir(mode=0o700)
    if user:
        shutil.chown(folder, user, pwd.getpwnam(user).pw_gid)
    port, password = free_port(), secrets.token_hex(16)
    with tempfile.NamedTemporaryFile("w", dir=folder) as file:
        file.write(password)
        file.flush()
        if user:
            shutil.chown(file.name, user)
        options = ["-D", folder / "data", "-U", "mlflow", "-A", "scram-sha-256", f"--pwfile={file.name}"]
        subprocess.run(
            [programs / "initdb", *options, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            **({"user": user, "group": user, "extra_groups": []} if user else {}),
        )
    command = [str(programs / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-k", str(folder)]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", f"fsync={'on' if durable else 'off'}"]
    login = {"host": "127.0.0.1", "port": port, "user": "mlflow", "password": password}

    def ready() -> bool:
        with contextlib.suppress(psycopg2.OperationalError):
            psycopg2.connect(dbname="postgres", **login).close()
            return True
        return False

    process = Process(command, {**os.environ}, folder.parent / "postgres.log", ready, user)
    process.start()
    try:
        connection = psycopg2.connect(dbname="postgres", **login)
        connection.autocommit = True  # a database is not created within a transaction
        with connection.cursor() as cursor:
            for name in ("runs", "logins"):
                cursor.execute(f"CREATE DATABASE {name}")
        connection.close()
        yield f"postgresql+psycopg2://mlflow:{password}@127.0.0.1:{port}"
    finally:
        process.stop(signal.SIGINT)  # without waiting for its clients


@contextlib.contextmanager
def _object_store(folder: Path) -> Iterator[dict[str, str]]:
    """moto's S3 server with a bucket; gives the environment of whoever uses it."""
    import boto3

    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = Process(command, {**os.environ}, folder / "s3.log", lambda: answers(f"{uri}/moto-api/"))
    process.start()
    try:
        login = {"aws_access_key_id": "key", "aws_secret_access_key": secrets.token_hex(16)}
        s3 = boto3.client("s3", endpoint_url=uri, region_name="us-east-1", **login)
        s3.create_bucket(Bucket=BUCKET)
        yield {
            "MLFLOW_S3_ENDPOINT_URL": uri,
            "AWS_DEFAULT_REGION": "us-east-1",
            **{name.upper(): value for name, value in login.items()},
        }
    finally:
        process.stop()


class Detour(http.server.ThreadingHTTPServer):
    """Stands before a server, passes requests on, and counts. Slow, or under another name, where a test asks for it."""

    daemon_threads = True

    def __init__(self, uri: str, *, delay_s: float = 0.0, host: str | None = None) -> None:
        """
        Args:
            uri: of the server.
            delay_s: how long each request waits.
            host: the name by which the server is addressed.
        """
        super().__init__(("127.0.0.1", 0), _PassOn)
        self.server = urlsplit(uri).netloc
        self.delay_s, self.host = delay_s, host
        self.connections = 0
        self.requests: list[str] = []
        self.uri = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever)

    def __enter__(self) -> Detour:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is nothing to talk about."""


class _PassOn(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # a connection stays open
    server: Detour

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {urlsplit(self.path).path}")
        time.sleep(self.server.delay_s)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = dict(self.headers) | ({"Host": self.server.host} if self.server.host else {})
        with contextlib.closing(http.client.HTTPConnection(self.server.server)) as connection:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None: ...


def free_port() -> int:
    """A loopback port where nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def answers(url: str) -> bool:
    """Whether a server says that all is well."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False
