"""A Ray cluster with its token and an MLflow server with its login: whoever has neither is turned away."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.server]

TOKEN = "a-token-of-this-test-only-0123456789abcdef"
PASSWORD = "a-password-of-this-test-only"
# What someone on the network can do who has Ray installed: ask the cluster, its client server, and connect.
GCS = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1]).internal_kv_keys(b'', b'', 5)"
CLIENT = """
import sys, grpc
from ray.core.generated import ray_client_pb2, ray_client_pb2_grpc
token = [("authorization", f"Bearer {sys.argv[2]}")] if sys.argv[2] else []
channel = grpc.insecure_channel(sys.argv[1])
ask = ray_client_pb2.ClusterInfoRequest(type=ray_client_pb2.ClusterInfoType.PING)
print(ray_client_pb2_grpc.RayletDriverStub(channel).ClusterInfo(ask, timeout=20, metadata=token))
"""


def free_port():
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return chosen.getsockname()[1]


def wait_for(there, process, seconds=400):
    end = time.monotonic() + seconds
    while not there():
        assert process.poll() is None, f"ended with {process.returncode}"
        assert time.monotonic() < end
        time.sleep(0.2)


def answer(url, *, data=None, **headers):
    """The status of a call, and its text."""
    request = urllib.request.Request(url, data=data and json.dumps(data).encode(), headers=headers)
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def answered(url, **headers):
    """The text of a call; none while there is nobody to answer."""
    try:
        return answer(url, **headers)[1]
    except OSError:
        return ""


def stranger(home, **variables):
    """An environment without any token, and with a home that holds none."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return {**kept, "HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0", **variables}


@pytest.fixture(scope="module")
def cluster(short_folder):
    """A head node as `ray start` makes it, with token authentication: (GCS, dashboard, client server)."""
    home = short_folder
    ports = [free_port() for _ in range(3)]
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=1",
        "--node-ip-address=127.0.0.1", "--include-dashboard=true", f"--port={ports[0]}",
        f"--dashboard-port={ports[1]}", f"--ray-client-server-port={ports[2]}", f"--temp-dir={home}/r",
        f"--object-store-memory={80 * 2**20}",
    ]  # fmt: skip
    environment = stranger(home, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN, PYTHONUNBUFFERED="1")
    for _ in range(3):  # Ray gives its own processes 30 s, which a busy machine may not
        head = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if any("Ray runtime started" in line for line in head.stdout):
            break
        head.communicate()
    try:
        yield tuple(f"127.0.0.1:{port}" for port in ports)
    finally:
        head.send_signal(signal.SIGTERM)  # with --block it ends what it started
        head.communicate(timeout=60)


def python(code, *arguments, home, **variables):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=stranger(home, **variables), capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip


def test_the_clusters_heart_refuses_strangers_and_lets_the_token_in(cluster, tmp_path):
    refused = python(GCS, cluster[0], home=tmp_path, RAY_AUTH_MODE="disabled")
    assert "AuthenticationError" in refused.stderr
    wrong = python(GCS, cluster[0], home=tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="b" * 40)
    assert "AuthenticationError" in wrong.stderr
    accepted = python(GCS, cluster[0], home=tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)
    assert accepted.returncode == 0, accepted.stderr


def test_jobs_and_pages_are_refused_to_strangers_and_given_to_the_token(cluster):
    pages = f"http://{cluster[1]}"
    job = {"entrypoint": "touch owned", "submission_id": "owned"}
    login = {"Authorization": f"Bearer {TOKEN}"}
    assert answer(f"{pages}/api/jobs/", data=job)[0] == 401
    assert answer(f"{pages}/api/jobs/", data=job, Authorization="Bearer " + "b" * 40)[0] == 403
    for path in ("/api/jobs/", "/nodes?view=summary", "/api/v0/actors", "/logical/actors"):
        assert answer(pages + path)[0] == 401, path
    status, jobs = answer(f"{pages}/api/jobs/", **login)
    assert (status, jobs) == (200, "[]")
    assert answer(f"{pages}/nodes?view=summary", **login)[0] == 200


def test_the_client_server_refuses_strangers_and_lets_the_token_in(cluster, tmp_path):
    for token in ("", "b" * 40):
        refused = python(CLIENT, cluster[2], token, home=tmp_path)
        assert "StatusCode.UNAUTHENTICATED" in refused.stderr, refused
    accepted = python(CLIENT, cluster[2], TOKEN, home=tmp_path)
    assert accepted.returncode == 0, accepted.stderr


def test_the_doctor_says_that_it_is_not_let_in_and_with_the_token_that_strangers_are_not(cluster, tmp_path):
    code = "from orchestrator.cli import main; import sys; sys.argv = ['bottleneck', *sys.argv[1:]]; main()"
    asked = ("doctor", "--json", "--storage", str(tmp_path / "runs"), "--cluster", cluster[0])
    shut_out = python(code, *asked, home=tmp_path, RAY_AUTH_MODE="disabled", PYTHONPATH=os.pathsep.join(sys.path))
    assert shut_out.returncode == 1, shut_out.stderr
    (found,) = (f for f in json.loads(shut_out.stdout) if f["what"] == "cluster")
    assert not found["fine"]
    assert "does not let us in without its token" in found["found"]
    assert "token" in found["remedy"]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    let_in = python(code, *asked, home=tmp_path, PYTHONPATH=os.pathsep.join(sys.path), **token)
    findings = json.loads(let_in.stdout)
    assert [f["found"] for f in findings if f["what"] == "token"] == ["a call without the token is refused"], findings
    assert TOKEN not in let_in.stdout + let_in.stderr


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory):
    """The address of an MLflow server with basic authentication on SQLite."""
    folder = tmp_path_factory.mktemp("mlflow")
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/users.db\nadmin_username = admin\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    port = free_port()
    variables = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test", "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }  # fmt: skip
    server = subprocess.Popen(
        [
            sys.executable, "-m", "mlflow", "server", "--app-name=basic-auth", f"--port={port}", "--workers=1",
            f"--backend-store-uri=sqlite:///{folder}/runs.db", f"--artifacts-destination={folder}/artifacts",
        ],
        cwd=folder, env=stranger(folder, **variables), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: answered(f"http://127.0.0.1:{port}/health"), server)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # the group that the server began with its workers
        server.wait(60)


def test_mlflow_refuses_strangers_and_lets_the_login_in(mlflow_server):
    api = f"http://{mlflow_server}/api/2.0/mlflow"
    for login in (None, f"admin:{'b' * 20}", "stranger:stranger"):
        headers = {} if login is None else {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}
        assert answer(f"{api}/experiments/search?max_results=1", **headers)[0] == 401
        assert answer(f"{api}/experiments/create", data={"name": "owned"}, **headers)[0] == 401
        assert answer(f"{api}/users/create", data={"username": "x", "password": "x" * 20}, **headers)[0] == 401
    login = {"Authorization": "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode()}
    status, found = answer(f"{api}/experiments/search?max_results=10", **login)
    assert status == 200
    assert "owned" not in found
