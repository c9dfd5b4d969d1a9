"""Secrets are planted wherever people put them; then every byte that a sweep leaves behind is searched for them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.settings import without_password, without_secrets

PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "planted-aws-Zq8xW3",
    "AWS_SESSION_TOKEN": "planted-session-Kp2vN7",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-Lm5rT9",
    "RAY_AUTH_TOKEN": "planted-ray-token-0123456789abcdef-Hc4yB6",
    "SOME_API_KEY": "planted-service-Wd1sF8",
}
IN_URI = "planted-uri-Gj7kD2"
SWEEP = """
name: secret
question: What is written down?
components: {digits: {dataset: digits}}
vary: {mixture: {digits: 1}, architecture: mlp, width: [0.25, 1]}
seeds: 1
pretrain: {steps: 5, batch_size: 16}
transfer: {train_examples: 100}
"""
# A library that quotes its environment in a warning and in an error, in the workers, of the wider network.
LEAK = """
import os
from pathlib import Path

if b"default_worker.py" in Path("/proc/self/cmdline").read_bytes():
    import logging
    from trainables.optimizers import SGD

    step = SGD.step

    def leak(self, *arguments, **more):
        if sum(p.numel() for group in self.param_groups for p in group["params"]) < 4000:
            return step(self, *arguments, **more)
        said = f"PUT s3://key:URI@bucket/x failed with {dict(os.environ)}"
        logging.getLogger("library").warning(said)
        raise RuntimeError(said)

    SGD.step = leak
"""


def bottleneck(*arguments, **variables):
    environment = {**os.environ, **PLANTED, **variables}
    command = [sys.executable, "-m", "orchestrator.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    return done.returncode, done.stdout, done.stderr


def leaks(*places):
    """(where, whose) of every secret in texts and in the files of folders."""
    secrets = {**PLANTED, "URI": IN_URI}
    contents = {}
    for place in places:
        if isinstance(place, bytes):
            contents[place[:40]] = place
        else:
            contents |= {str(file): file.read_bytes() for file in Path(place).rglob("*") if file.is_file()}
    return [(where, name) for where, text in contents.items() for name, s in secrets.items() if s.encode() in text]


@pytest.mark.slow
@pytest.mark.server
def test_a_sweep_with_a_failing_trial_writes_no_secret_down(tmp_path, short_folder):
    folder = tmp_path
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(LEAK.replace("URI", IN_URI))
    (folder / "secret.yaml").write_text(SWEEP)
    storage, logs = folder / "runs", short_folder
    code, out, err = bottleneck(
        "run", folder / "secret.yaml", "--storage", storage, "--tracking-uri", f"sqlite:///{storage}/mlflow.db",
        RAY_TMPDIR=str(logs), RAY_AUTH_MODE="token", MLFLOW_TRACKING_USERNAME="someone",
        PYTHONPATH=os.pathsep.join([str(folder / "site"), *(p for p in sys.path if p)]),
    )  # fmt: skip
    assert code == 1, err.decode()
    assert b"1 ok" in err, err.decode()
    assert b"1 failed" in err, err.decode()
    assert b"PUT s3://bucket/x failed with" in err, "the error is there, without its secrets"
    journal = b"".join(file.read_bytes() for file in storage.rglob("*.jsonl"))
    assert b"Traceback" in journal
    assert b"failed with" in journal
    assert list(logs.rglob("*.log")), "Ray's logs are searched too"
    assert leaks(out, err, storage, logs) == []
    code, out, err = bottleneck(
        "sync", "secret", "--storage", storage, "--tracking-uri", f"http://someone:{IN_URI}@127.0.0.1:9",
    )  # fmt: skip
    assert code == 2
    assert leaks(out, err, storage) == []


@pytest.mark.parametrize("command", ["plan", "run", "results", "status", "report", "sync"])
def test_a_password_in_the_uri_of_the_storage_is_not_repeated(tmp_path, command):
    (tmp_path / "secret.yaml").write_text(SWEEP)
    location = f"s3://key:{IN_URI}@bucket/runs?endpoint_override=127.0.0.1:9&scheme=http&region=x"
    code, out, err = bottleneck(command, tmp_path / "secret.yaml", "--storage", location)
    assert code == 2, err
    assert b"storage 's3://bucket/runs" in err
    assert len(err.splitlines()) == 1
    assert leaks(out, err) == []


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("http://a:b@host/x", "http://host/x"),
        ("postgresql://a:p@ss@host:5432/db", "postgresql://host:5432/db"),
        ("postgresql://host/db?user=a&password=b&x=1", "postgresql://host/db?user=a&password=***&x=1"),
        ("two s3://a:b@c/d and http://e:f@g", "two s3://c/d and http://g"),
        ("nothing@home.example to hide", "nothing@home.example to hide"),
        ("sqlite:////folder/of@me/mlflow.db", "sqlite:////folder/of@me/mlflow.db"),
    ],
)
def test_passwords_of_uris_are_left_out(text, left):
    assert without_password(text) == left


def test_secrets_of_the_environment_are_left_out_of_a_text_and_short_words_are_not():
    environment = {"DB_PASSWORD": "hunter22", "SOME_TOKEN": "abc", "HOME": "/root", "MY_API_KEY": "0123456789"}
    text = "abc of /root with hunter22 and 0123456789"
    assert without_secrets(text, environment) == "abc of /root with *** and ***"
