"""Machines of a cluster on one machine: each is a set of Linux namespaces with an address on a common bridge.

A host has its own processes, network, hostname, home, /tmp and /dev/shm, and an SSH server that accepts one key. The
folder `shared` lies under /mnt/bottleneck on all of them, as a network file system would. What a host writes elsewhere
is in memory, and everything of it belongs to one process: kill that, as `Host.kill` does, and it is as if the power had
gone. The bridge lies in a namespace of its own, so that nothing is left behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

HOME = "/mnt/home"
NEEDED = ("ip", "unshare", "nsenter", "setpriv", "ssh", "ssh-keygen", "rsync", "git", "uv")
SSHD = "/usr/sbin/sshd"
NAMESPACES = ["unshare", "--fork", "--kill-child", "--net", "--mount", "--pid", "--mount-proc", "--uts", "--ipc"]

# $1: the host's name, $2: folder with its files. Runs as the first process of the host.
BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 host /mnt
mkdir -p /mnt/bottleneck /mnt/home/venv /mnt/home/.cache/uv /mnt/home/.ssh /mnt/venv/upper /mnt/venv/work /mnt/work \\
    /mnt/postgresql/etc /mnt/postgresql/lib /mnt/postgresql/log
mkdir -m 1777 /mnt/tmp
mount --bind "$SHARED" /mnt/bottleneck
mount --bind "$WORK" /mnt/work
mount --bind "$UV_CACHE" /mnt/home/.cache/uv
# The environment of the tests, as if it had been installed here: what the host adds to it stays with the host.
mount -t overlay venv -o "lowerdir=$VENV,upperdir=/mnt/venv/upper,workdir=/mnt/venv/work" /mnt/home/venv
cp -r "$2" /mnt/etc
cat "/mnt/etc/$1.bashrc" /mnt/etc/bashrc >/mnt/home/.bashrc
cp /mnt/etc/key /mnt/home/.ssh/id_ed25519
chmod 600 /mnt/home/.ssh/id_ed25519 /mnt/etc/host_key
for file in passwd hosts nsswitch.conf; do mount --bind "/mnt/etc/$file" "/etc/$file"; done
if [ -d /etc/postgresql ]; then
    chown -R postgres /mnt/postgresql
    mount --bind /mnt/postgresql/etc /etc/postgresql
    mount --bind /mnt/postgresql/lib /var/lib/postgresql
    mount --bind /mnt/postgresql/log /var/log/postgresql
fi
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/sshd /run/lock
mount -t tmpfs -o mode=1777 shm /dev/shm
mount --bind /mnt/tmp /tmp
mkdir -p "$VENV" && mount --bind /mnt/home/venv "$VENV"  # its scripts name the place where it was made
hostname "$1"
ip link set lo up
touch /mnt/ready
"$SSHD" -D -e -f /mnt/etc/sshd_config 2>/mnt/sshd.log &
while :; do wait || :; sleep 1; done
"""

ATTEMPT = """
set -e
mount --make-rprivate /
mount -t tmpfs none /mnt
mkdir /mnt/lower /mnt/upper /mnt/work /mnt/merged
mount -t overlay none -o lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work /mnt/merged
ip link add end0 type veth peer name end1
ip link add between type bridge
"""

SSHD_CONFIG = """
HostKey /mnt/etc/host_key
AuthorizedKeysFile /mnt/etc/key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
PidFile none
"""


class Host:
    """One machine."""

    def __init__(self, name: str, address: str, process: subprocess.Popen[bytes]) -> None:
        self.name, self.address = name, address
        self._process = process
        self.init = wait_for(lambda: _child(process.pid), f"{name} to start")

    def enter(self, *command: str) -> list[str]:
        """A command line that runs a command on the host."""
        return ["nsenter", f"--target={self.init}", "--net", "--mount", "--pid", "--uts", "--ipc", "--", *command]

    def shell(self, text: str) -> list[str]:
        """A command line that runs a line of shell as a user who is logged in there."""
        clean = ["env", "-i", f"HOME={HOME}", f"PATH={os.environ['PATH']}", "TERM=dumb", "LANG=C.UTF-8"]
        return self.enter(*clean, "bash", "-c", f"cd /mnt/work && . ~/.bashrc && {text}")

    def run(self, text: str, *, expect: int | None = 0, timeout: float = 300) -> str:
        """Run a line of shell; its output."""
        done = subprocess.run(
            self.shell(text), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert expect is None or done.returncode == expect, f"{text}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def processes(self) -> list[str]:
        """The command lines of what runs there."""
        space = Path(f"/proc/{self.init}/ns/pid").readlink()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if (folder / "ns/pid").readlink() == space:
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found

    def kill(self) -> None:
        """Take the power away."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.init, signal.SIGKILL)
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def hosts(
    addresses: Mapping[str, str], *, shared: Path, work: Path, settings: Mapping[str, Mapping[str, str]]
) -> Iterator[dict[str, Host]]:
    """Start machines by name and address (of 10.77.0.0/24); they end with the block.

    Args:
        shared: what they see as /mnt/bottleneck.
        work: what they see as /mnt/work, where their shells start.
        settings: environment variables of every session, by host.
    """
    skip_unless_possible()
    started: list[Host] = []
    with tempfile.TemporaryDirectory(prefix="hosts-") as scratch:
        files = Path(scratch)
        switch = subprocess.Popen(_dies_with_us([*NAMESPACES, "sleep", "infinity"]))
        try:
            bridge = wait_for(lambda: _child(switch.pid), "the bridge")
            _ip("link", "add", "bridge", "type", "bridge", inside=bridge)
            _ip("link", "set", "bridge", "up", inside=bridge)
            _write_files(files, addresses, settings)
            for name, address in addresses.items():
                started.append(_start(name, address, files, shared, work))
                _connect(started[-1], bridge)
            yield {host.name: host for host in started}
        finally:
            for host in started:
                host.kill()
            switch.kill()
            switch.wait()


def skip_unless_possible() -> None:
    """Skip the test, saying why, where such machines cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("hosts in network namespaces need root")
    missing = [name for name in NEEDED if shutil.which(name) is None] + ([SSHD] if not Path(SSHD).exists() else [])
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    tried = subprocess.run([*NAMESPACES, "sh", "-c", ATTEMPT], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"this machine does not permit namespaces: {tried.stderr.strip()}")


def wait_for(condition, what: str, seconds: float = 60):
    """The first true value of a condition."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.1)
    raise TimeoutError(f"waited {seconds:g} s for {what}")


def _start(name: str, address: str, files: Path, shared: Path, work: Path) -> Host:
    cache = subprocess.run(["uv", "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    environment = {"SHARED": str(shared), "WORK": str(work), "VENV": sys.prefix, "UV_CACHE": cache, "SSHD": SSHD}
    process = subprocess.Popen(
        _dies_with_us([*NAMESPACES, "bash", "-c", BOOT, "boot", name, str(files)]),
        env={"PATH": os.environ["PATH"], **environment},
    )
    host = Host(name, address, process)
    wait_for(lambda: Path(f"/proc/{host.init}/root/mnt/ready").exists(), f"{name} to boot")
    return host


def _connect(host: Host, bridge: int) -> None:
    port = f"to-{host.name}"
    _ip("link", "add", port, "netns", str(bridge), "type", "veth", "peer", "name", "eth0", "netns", str(host.init))
    _ip("link", "set", port, "master", "bridge", "up", inside=bridge)
    _ip("address", "add", f"{host.address}/24", "dev", "eth0", inside=host.init)
    _ip("link", "set", "eth0", "up", inside=host.init)


def _ip(*arguments: str, inside: int | None = None) -> None:
    enter = ["nsenter", f"--target={inside}", "--net", "--"] if inside else []
    subprocess.run([*enter, "ip", *arguments], check=True)


def _write_files(folder: Path, addresses: Mapping[str, str], settings: Mapping[str, Mapping[str, str]]) -> None:
    for key in ("key", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    (folder / "sshd_config").write_text(SSHD_CONFIG)
    # Home is not /root, where this machine's Python may lie; `*` lets a key in whatever the password says.
    users = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
    passwd = [[*u[:1], "*", *u[2:5], HOME, "/bin/bash"] if u[0] == "root" else u for u in users]
    (folder / "passwd").write_text("".join(":".join(u) + "\n" for u in passwd))
    names = {"localhost": "127.0.0.1", **addresses}
    (folder / "hosts").write_text("".join(f"{address} {name}\n" for name, address in names.items()))
    (folder / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")  # a look-up in vain takes 10 s
    path = f"{HOME}/venv/bin:{Path(shutil.which('uv') or '').parent}:$PATH"
    (folder / "bashrc").write_text(f"export PATH={path} UV_OFFLINE=1 UV_LINK_MODE=copy LANG=C.UTF-8\n")
    for name in addresses:
        lines = [f"export {key}='{value}'\n" for key, value in settings.get(name, {}).items()]
        (folder / f"{name}.bashrc").write_text("".join(lines))


def _dies_with_us(command: Sequence[str]) -> list[str]:
    return ["setpriv", "--pdeathsig", "KILL", *command]


def _child(pid: int) -> int | None:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    return None
