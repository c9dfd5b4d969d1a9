"""The tracking server is down, goes down, or is slow: the sweep does not wait, and `sync` mends the view."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest
from tiny_sweep import Tiny, assert_undisturbed, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.server]

DELAY_S = 0.5  # of the slow server's every answer; a run takes dozens of requests
WARNING = "brings MLflow up to date"


def warnings(text: str) -> int:
    """How often it is warned. Lines of progress repeat the last warnings."""
    return sum(WARNING in line for line in text.splitlines() if not line.startswith("state: "))


class Server:
    """MLflow's own server on loopback, to be started and killed at the same address."""

    def __init__(self, folder, port: int) -> None:
        self.uri, self._folder, self._port = f"http://127.0.0.1:{port}", folder, port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self._port)]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/server.db"]
        command += ["--artifacts-destination", str(self._folder)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, cwd=self._folder, start_new_session=True, **quiet)
        wait_for(self._answers)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server", port)
    yield server
    server.kill()


@contextlib.contextmanager
def delayed(port: int) -> Iterator[int]:
    """A proxy to a port of this machine that passes on every answer late; its own port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket, delay: float) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                time.sleep(delay)
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
                for source, target, delay in ((near, far, 0.0), (far, near, DELAY_S)):
                    threading.Thread(target=pump, args=(source, target, delay), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


def test_a_server_that_goes_down_amid_a_sweep_is_one_warning_and_sync_catches_up(tiny, undisturbed, server):
    server.start()
    at_server = {"MLFLOW_TRACKING_URI": server.uri}
    with tiny.driver(environment=at_server) as driver:
        wait_for(lambda: tiny.computed(), driver)
        server.kill()
        _, err = driver.communicate(timeout=900)
    assert driver.returncode == 0, err
    assert warnings(err) == 1
    server.start()
    _sync(tiny, server)
    assert_undisturbed(tiny, undisturbed)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_server_that_is_down_and_one_that_is_slow_hold_up_nothing(untouched, undisturbed, server, tmp_path):
    """With a sweep that the store has whole: all that there is to do is to show it."""
    tiny = Tiny(tmp_path)
    shutil.copytree(untouched.storage, tiny.storage)
    done = tiny.run(environment={"MLFLOW_TRACKING_URI": server.uri})
    assert warnings(done.stderr) == 1
    server.start()
    _sync(tiny, server)
    assert_undisturbed(tiny, undisturbed)
    with delayed(int(server.uri.rpartition(":")[2])) as port:
        slow = tiny.run("--set", "name=slow", environment={"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"})
    assert "0 stages computed" in slow.stderr


def _sync(tiny: Tiny, server: Server) -> None:
    command = [sys.executable, "-m", "orchestrator.cli", "sync", "tiny", "--storage", str(tiny.storage)]
    subprocess.run([*command, "--tracking-uri", server.uri], check=True, capture_output=True)
    tiny.tracking_uri = server.uri
