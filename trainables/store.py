"""Which stages have been computed, and what came out? A content-addressed store of stage results.

    <storage>/stages/<kind>/<2 hex>/<digest>/  spec.json  result.json  <name>-<12 hex>.safetensors
    <storage>/state/<digest>.safetensors       how far a pretraining run has come
    <storage>/damaged/...                      entries that failed their checksum, set aside
    <storage>/locks/  <storage>/leases/        who computes what now

`result.json` is written last and is what makes a stage exist; it carries the checksums of itself and of every file
that was written with it, so that nothing half written or damaged ever counts. Those files are named by their content:
of two processes that put one stage at the same time, whichever ends last leaves a whole entry. Nothing is unpickled.

Single flight is a kernel lock on a file of the storage folder: the kernel frees it when its owner dies, however it
dies, so there is no expiry to wait for and no clock to trust. On S3 it is a lease (`trainables.lease`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from trainables import lease, segments
from trainables.errors import UserError, without_password

if TYPE_CHECKING:
    from pyarrow import fs
    from torch import Tensor

    from trainables.spec import StageSpec

log = logging.getLogger(__name__)


class StoreError(UserError):
    """The storage location cannot be used; the message says why, in one line."""


class DamagedEntry(Exception):
    """A stage's files do not match their checksums. The entry has been set aside and counts as not computed."""


class Entry(NamedTuple):
    """What `result.json` holds."""

    result: dict[str, Any]
    files: dict[str, str]  # the checksum of each file of tensors


class Stamp(NamedTuple):
    """What tells without reading it whether a file is the one that it was: as git's index has it."""

    bytes: int
    written_ns: int  # since 1970
    changed_ns: int  # the same, or when it was given its name, its rights or another time
    inode: int


class File(NamedTuple):
    """A file of the store, as `bottleneck gc` looks at it."""

    name: str
    bytes: int
    used: float  # seconds since 1970: when it was written or, where the file system keeps that, last read


READ_BYTES = 2**24  # asked for at a time where a file is longer than it was said to be
LISTED_FROM = 8  # of so many stages of one shelf, a listing of it is faster than a look at each
THREADS = 32  # that wait for an object store at the same time
PATIENCE_S = {True: 0.2, False: 1.0}  # by `is_folder`: between looks at what another is computing; requests cost money
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}  # of a file system that has none

Value = TypeVar("Value")
Answer = TypeVar("Answer")


class Store:
    """Stage results under one location: a folder, or any URI that `pyarrow.fs` opens (`s3://...`, `gs://...`)."""

    def __init__(
        self, location: str | Path, lease_expiry_s: float = lease.EXPIRY_S, *, sets_aside: bool = True
    ) -> None:
        """
        Args:
            location: a folder or a URI.
            lease_expiry_s: after how long without a word the owner of a lease counts as dead, on S3.
            sets_aside: whether a damaged entry is moved away; without that it only counts as not there, and looking at
                results changes nothing.

        Raises:
            StoreError: the location's URI cannot be opened.
        """
        self.location = str(location)  # with its password, if it has one: for programs, never for people
        self.shown = without_password(self.location) if "://" in self.location else self.location
        try:
            self._remote, self._root = _opened(self.location)
        except (OSError, ValueError) as error:  # it may quote the password, so it is not chained
            raise StoreError(f"storage {self.shown!r} cannot be opened: {_first_line(error)}") from None
        self._root = self._root.rstrip("/")
        self.is_folder = self._remote is None
        self.patience_s = PATIENCE_S[self.is_folder]
        self._lease_expiry_s, self._sets_aside = lease_expiry_s, sets_aside
        self._appending = threading.Lock()
        self._writers: dict[str, segments.Writer] = {}

    def check(self) -> None:
        """Raises StoreError unless a file can be written, read back and removed."""
        name, content = f"check-{uuid.uuid4().hex}", b"bottleneck"
        self.write(name, content)
        with self._asked("written"):
            if self.read(name) != content:
                raise OSError("a file did not read back as it was written")
            self._delete(name)

    # Stages -------------------------------------------------------------------------------------------------------

    def existing(self, stages: Iterable[tuple[str, str]]) -> set[str]:
        """The digests among (kind, digest) pairs that have a result; their checksums are not read."""
        if not self.is_folder:  # a listing tells of a thousand files, a look at one file of one
            wanted = {_folder(kind, digest): digest for kind, digest in stages}
            shelves = sorted({folder.rpartition("/")[0] for folder in wanted})
            there = {file.name for files in self._at_once(self.files, shelves) for file in files}
            return {digest for folder, digest in wanted.items() if f"{folder}/result.json" in there}
        shelved: dict[str, list[str]] = {}
        kinds = set(self.names("stages"))
        for kind, digest in stages:
            if kind in kinds:
                shelved.setdefault(_shelf(kind, digest), []).append(digest)
        with self._asked("read"):
            return {digest for shelf, digests in shelved.items() for digest in self._kept(shelf, digests)}

    def _kept(self, shelf: str, digests: Sequence[str]) -> Iterator[str]:
        """Those of the digests that a shelf of a folder has a result of."""
        if len(digests) > LISTED_FROM:
            there = set(self.names(shelf))
            digests = [digest for digest in digests if digest in there]
        for digest in digests:
            if _is_file(self._path(f"{shelf}/{digest}/result.json")):
                yield digest

    def get(self, kind: str, digest: str) -> dict[str, Any] | None:
        """The result of a stage, or None. A damaged entry is set aside and is None."""
        return self.get_stamped(kind, digest)[0]

    def get_stamped(self, kind: str, digest: str) -> tuple[dict[str, Any] | None, Stamp | None]:
        """The same, and the stamp of the file that it was read from; None where there is none, and in object stores."""
        try:
            entry, stamp = self._entry(kind, digest)
        except (FileNotFoundError, DamagedEntry):
            return None, None
        return entry.result, stamp

    def stamp(self, kind: str, digest: str) -> Stamp | None:
        """Which file a stage's result is, in a store that is a folder; None if there is none."""
        try:
            return _stamp(os.stat(self._path(f"{_folder(kind, digest)}/result.json")))  # noqa: PTH116 - thousands of them
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._refused("read", error) from error

    def tensors(self, kind: str, digest: str, name: str) -> dict[str, Tensor]:
        """The tensors of a stage's file `name`.safetensors.

        Raises:
            DamagedEntry: the file fails its checksum; the entry has been set aside.
            FileNotFoundError: there is no such stage.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        files = self._entry(kind, digest)[0].files
        file = next((file for file in files if _tensors_name(file) == name), f"{name}.safetensors")
        try:
            content = self.read(f"{_folder(kind, digest)}/{file}")
        except FileNotFoundError:
            content = b""
        if hashlib.sha256(content).hexdigest() != files.get(file):
            self._set_aside(kind, digest, f"{file} does not match its checksum")
            raise DamagedEntry(f"{kind} {digest[:12]}: {file}")
        try:
            tensors: dict[str, Tensor] = load(content)
        except SafetensorError as error:
            self._set_aside(kind, digest, f"{file} is no safetensors file")
            raise DamagedEntry(f"{kind} {digest[:12]}: {file}") from error
        return tensors

    def checksums(self, kind: str, digest: str) -> dict[str, str]:
        """The SHA-256 of each file of tensors that a stage was put with, by name.

        Raises:
            DamagedEntry: the result fails its checksum; the entry has been set aside.
            FileNotFoundError: there is no such stage.
        """
        files = self._entry(kind, digest)[0].files
        return {_tensors_name(file): checksum for file, checksum in files.items()}

    def put(
        self,
        stage: StageSpec,
        result: Mapping[str, Any],
        tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        """Keep a stage's result and its files of named tensors. Writing the same stage again changes nothing."""
        from safetensors.torch import save

        from trainables.spec import as_json

        folder = _folder(stage.kind, stage.digest)
        files = {}
        for name, values in (tensors or {}).items():
            content = save({key: value.detach().cpu().contiguous() for key, value in values.items()})
            checksum = hashlib.sha256(content).hexdigest()
            file = f"{name}-{checksum[:12]}.safetensors"
            self.write(f"{folder}/{file}", content, durable=True)
            files[file] = checksum
        self.write(f"{folder}/spec.json", _json({"kind": stage.kind, "spec": as_json(stage)}))
        self.write(f"{folder}/result.json", _sealed({"result": dict(result), "files": files}), durable=True)

    def remove(self, kind: str, digest: str) -> None:
        """Forget a stage, so that it is computed again when it is next needed."""
        folder = _folder(kind, digest)
        self.delete(f"{folder}/result.json")  # first, so that a kill leaves no entry without its files
        self.delete_tree(folder)

    def _entry(self, kind: str, digest: str) -> tuple[Entry, Stamp | None]:
        content, stamp = self._read(f"{_folder(kind, digest)}/result.json")
        try:
            return _unsealed(content), stamp
        except (ValueError, RecursionError):
            self._set_aside(kind, digest, "result.json does not match its checksum")
            raise DamagedEntry(f"{kind} {digest[:12]}: result.json") from None

    def _set_aside(self, kind: str, digest: str, why: str) -> None:
        if not self._sets_aside:
            log.warning("stage %s %s: %s", kind, digest[:12], why)
            return
        place = f"damaged/{kind}-{digest[:16]}-{int(time.time())}-{uuid.uuid4().hex[:6]}"
        try:
            if self._remote is None:
                Path(self._path("damaged")).mkdir(parents=True, exist_ok=True)
                Path(self._path(_folder(kind, digest))).rename(self._path(place))
            else:  # object stores have no folders to move; without its result the entry does not exist
                result = self._path(f"{_folder(kind, digest)}/result.json")
                self._remote.move(result, self._path(f"{place}-result.json"))
        except FileNotFoundError:  # another process was first
            pass
        except OSError as error:  # as in a store that may only be read
            log.warning("stage %s %s: %s; it cannot be set aside: %s", kind, digest[:12], why, _first_line(error))
        else:
            log.warning("stage %s %s: %s; set aside as %s and computed again", kind, digest[:12], why, place)

    # Work in progress ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Hold the right to compute a stage, or to run a sweep. False, at once, if another process or thread holds it.

        A folder has kernel locks, S3 has leases. Elsewhere (`gs://`, an endpoint without conditional writes, S3 without
        boto3, a shared folder whose server has no locks) the answer is True, after one warning of the process where
        the user can mend it: two processes may then compute the same stage, and both put a whole entry. The sweep is
        not refused for that: what is lost is time, and a store without locks is often the only one there is.

        Raises StoreError if the location cannot be asked.
        """
        with self._asked("claimed"):
            release = self._acquire(name)
        if release is None:
            yield False
            return
        try:
            yield True
        finally:
            release()

    def is_claimed(self, name: str) -> bool:
        """Whether a process or thread holds a claim; no, where that cannot be told. Nothing is written."""
        with self._asked("read"):
            if not self.is_folder:
                return self._leases is not None and self._leases.is_held(name)
            try:
                lock = os.open(self._lock(name), os.O_RDONLY)
            except FileNotFoundError:
                return False
            try:
                return not _locked(lock, fcntl.LOCK_SH)
            except OSError as error:
                if error.errno in WITHOUT_LOCKS:
                    return False
                raise
            finally:
                os.close(lock)

    def claims(self) -> list[str]:
        """What has been claimed and may be no more: the names of all locks or leases."""
        if self.is_folder:
            return [name.removesuffix(".lock") for name in self.names("locks")]
        with self._asked("read"):
            return self._leases.names() if self._leases else []

    def remove_claim(self, name: str) -> bool:
        """Remove what an owner that is gone has left of its claim; returns whether there was something to remove."""
        if not self.is_folder:
            with self._asked("written"):
                return self._leases is not None and self._leases.remove_stale(name)
        with self.claim(name) as mine:
            if mine:  # whoever has it open and waits notices that it is gone
                self._lock(name).unlink(missing_ok=True)
            return mine

    def _acquire(self, name: str) -> Callable[[], None] | None:
        """How to give the claim back; None if another holds it."""
        if not self.is_folder:
            if self._leases is None:
                return _nothing
            held = self._leases.acquire(name)
            return held.release if held else None
        path = self._lock(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                mine = _locked(lock, fcntl.LOCK_EX)
                if mine and _is_at(path, lock):
                    return functools.partial(os.close, lock)
            except OSError as error:
                os.close(lock)
                if error.errno not in WITHOUT_LOCKS:
                    raise
                _warn_once(f"storage {self.shown!r} is on a file system without locks ({error.strerror}); {TWICE}")
                return _nothing
            os.close(lock)
            if not mine:
                return None

    def _lock(self, name: str) -> Path:
        return Path(self._path(f"locks/{name}.lock"))

    @functools.cached_property
    def _leases(self) -> lease.Leases | None:
        if self._remote is None or self._remote.type_name != "s3":
            return None
        try:
            return lease.Leases(self.location, self._root, self._remote.region, self._lease_expiry_s)
        except ImportError:
            why = "has no leases without boto3; install transfer-bottleneck[cluster]"
        except lease.Unconditional as error:
            why = f"has no leases: {error}"
        _warn_once(f"storage {self.shown!r} {why}; {TWICE}")
        return None

    def save_state(self, digest: str, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> None:
        """Keep how far a stage has come, in place of what was kept before."""
        from safetensors.torch import save

        content = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, dict(meta))
        self.write(f"state/{digest}.safetensors", hashlib.sha256(content).digest() + content, durable=True)

    def load_state(self, digest: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """The state kept last, or None; a damaged one is None, and the stage starts afresh."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            sealed = self.read(f"state/{digest}.safetensors")
        except FileNotFoundError:
            return None
        checksum, content = sealed[:32], sealed[32:]
        if hashlib.sha256(content).digest() != checksum:
            log.warning("the saved state of stage %s is damaged; it starts afresh", digest[:12])
            return None
        try:
            tensors = load(content)  # checks the header, before it is read again
        except SafetensorError:
            log.warning("the saved state of stage %s is no safetensors file; it starts afresh", digest[:12])
            return None
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return tensors, header.get("__metadata__", {})

    def drop_state(self, digest: str) -> None:
        self.delete(f"state/{digest}.safetensors")

    # Files --------------------------------------------------------------------------------------------------------

    def read(self, name: str) -> bytes:
        """The content of a file below the location, as it was at one moment. Raises FileNotFoundError."""
        return self._read(name)[0]

    def _read(self, name: str) -> tuple[bytes, Stamp | None]:
        """The same, and which file it was, if the store is a folder."""
        path = self._path(name)
        if self._remote is None:  # a table reads thousands of files, and `_asked` takes half as long as one
            try:
                return _content(path)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise self._refused("read", error) from error
        with self._asked("read"):
            while True:
                with self._remote.open_input_file(path) as file:
                    content = bytes(file.read())
                    tag = self._tag(file)
                if tag is None or tag == hashlib.md5(content, usedforsecurity=False).hexdigest():
                    return content, None
                # A large or encrypted object has a tag of another kind: it is whole if it still has the same one.
                with self._remote.open_input_file(path) as file:
                    if self._tag(file) == tag:
                        return content, None

    def _tag(self, file: Any) -> str | None:
        """What S3 calls the content of an object. pyarrow asks for its length first and for its bytes afterwards, so an
        object that is written in between is read with the length of the one and the bytes of the other."""
        tag = file.metadata().get("ETag") if self._remote and self._remote.type_name == "s3" else None
        return tag.decode().strip('"') if tag else None

    def write(self, name: str, content: bytes, *, durable: bool = False) -> None:
        """Write a file below the location: readers see the old one or the whole new one, never a part.

        Args:
            durable: the content is on the disk before the file has its name, so that a power cut leaves no file that
                is there and empty. Object stores do so of themselves.
        """
        path = self._path(name)
        if self._remote is not None:  # an object store shows an object when its upload has ended
            with self._asked("written"), self._remote.open_output_stream(path) as stream:
                stream.write(content)
            return
        target = Path(path)
        part = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:6]}")
        with self._asked("written"):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with part.open("wb") as file:
                    file.write(content)
                    if durable:
                        file.flush()
                        os.fsync(file.fileno())
                part.replace(target)
            finally:
                with contextlib.suppress(OSError):
                    part.unlink()

    def append(self, name: str, line: bytes) -> None:
        """Add a line to a file that only this process writes."""
        if self.is_folder:
            path = Path(self._path(name))
            with self._asked("written"):
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("ab") as file:
                    file.write(line)
            return
        with self._appending:
            writer = self._writers.setdefault(name, segments.Writer())
            segment, content = writer.add(line)
            self.write(f"{name}/{segment}", content)
            for whole, parts in writer.merges():
                self.write(f"{name}/{whole}", b"".join(self.read(f"{name}/{part}") for part in parts))
                for part in parts:
                    self.delete(f"{name}/{part}")

    def lines(self, name: str) -> list[bytes]:
        """What has been appended to a file so far. Raises FileNotFoundError."""
        while parts := [] if self.is_folder else segments.readable(self.names(name)):
            with contextlib.suppress(FileNotFoundError):  # its writer has put segments together since: look again
                return b"".join(self.read(f"{name}/{part}") for part in parts).splitlines()
        return self.read(name).splitlines()

    def names(self, folder: str) -> list[str]:
        """The files and folders directly below a folder, sorted; none if there is no such folder."""
        with self._asked("read"):
            if self._remote is None:
                try:
                    found = os.listdir(self._path(folder))  # noqa: PTH208
                except FileNotFoundError:
                    return []
            else:
                found = [info.base_name for info in self._infos(folder)]
        return sorted(name for name in found if not name.startswith("."))

    def files(self, folder: str) -> list[File]:
        """All files below a folder; none if there is no such folder."""
        if self.is_folder:
            found = []
            for path in Path(self._path(folder)).rglob("*"):
                with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                    if path.is_file():
                        seen = path.stat()
                        name = str(path.relative_to(self._root))
                        found.append(File(name, seen.st_size, max(seen.st_mtime, seen.st_atime)))
            return found
        with self._asked("read"):
            infos = [info for info in self._infos(folder, recursive=True) if info.is_file]
        return [File(info.path.removeprefix(f"{self._root}/"), info.size, info.mtime.timestamp()) for info in infos]

    def _infos(self, folder: str, *, recursive: bool = False) -> list[fs.FileInfo]:
        """What an object store says of what lies below a folder."""
        from pyarrow import fs

        assert self._remote, "a folder is listed by the operating system"
        selector = fs.FileSelector(self._path(folder), allow_not_found=True, recursive=recursive)
        return self._remote.get_file_info(selector)  # type: ignore[no-any-return]

    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is fine."""
        with self._asked("written"), contextlib.suppress(FileNotFoundError):
            self._delete(name)

    def _delete(self, name: str) -> None:
        if self._remote is None:
            Path(self._path(name)).unlink()
        else:
            self._remote.delete_file(self._path(name))

    def delete_tree(self, folder: str) -> None:
        """Remove a folder and all that is in it; one that is not there is fine."""
        with self._asked("written"), contextlib.suppress(FileNotFoundError):
            if self._remote is None:
                shutil.rmtree(self._path(folder))
            else:
                self._remote.delete_dir(self._path(folder))

    @property
    def folder(self) -> str | None:
        """The location as a path; None if it is no folder of a file system."""
        return self._root if self.is_folder else None

    def path(self, name: str) -> str:
        """Where a file lies, for people and for programs that open it themselves; without a password."""
        if self.is_folder:
            return self._path(name)
        place, mark, query = self.shown.partition("?")
        return f"{place.rstrip('/')}/{name}{mark}{query}"

    @contextlib.contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        """What the file system cannot do becomes a StoreError of one line; a file to read may be missing, though."""
        try:
            yield
        except OSError as error:
            if what == "read" and isinstance(error, FileNotFoundError):
                raise
            raise self._refused(what, error) from error

    def _refused(self, what: str, error: OSError) -> StoreError:
        return StoreError(f"storage {self.shown!r} cannot be {what}: {_first_line(error)}")

    def _at_once(self, function: Callable[[Value], Answer], values: Sequence[Value]) -> list[Answer]:
        """A function of many values, with many requests under way at the same time."""
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(THREADS) as threads:
            return list(threads.map(function, values))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _opened(location: str) -> tuple[fs.FileSystem | None, str]:
    """The object store of a URI and the path there; None and the path of a folder, which needs no library."""
    if "://" not in location:
        return None, str(Path(location).expanduser().absolute())
    from pyarrow import fs

    opened, path = fs.FileSystem.from_uri(_one_request_a_file(location))
    return (None if isinstance(opened, fs.LocalFileSystem) else opened), path


def _folder(kind: str, digest: str) -> str:
    return f"{_shelf(kind, digest)}/{digest}"


def _shelf(kind: str, digest: str) -> str:
    if not (kind.isidentifier() and digest.isalnum()):  # a plan that someone else has written leads nowhere else
        raise StoreError(f"found {kind!r} and {digest[:100]!r} in place of a kind of stage and its digest")
    return f"stages/{kind}/{digest[:2]}"


def _content(path: str) -> tuple[bytes, Stamp]:
    """What is in a file, and which one it is.

    In four calls of the system, where `open` makes seven and a stamp one more: a table reads thousands of files.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        stamp = _stamp(os.fstat(file))
        parts = [os.read(file, stamp.bytes + 1)]
        if len(parts[0]) != stamp.bytes:  # it has grown since, or comes in pieces
            while parts[-1]:
                parts.append(os.read(file, READ_BYTES))
        return b"".join(parts), stamp
    finally:
        os.close(file)


def _stamp(seen: os.stat_result) -> Stamp:
    return Stamp(seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino)


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 - thousands of them, and Path takes as long
    except (FileNotFoundError, NotADirectoryError):
        return False


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode()


def _sealed(entry: Mapping[str, Any]) -> bytes:
    """The bytes of an entry with the checksum of all the rest in it."""
    return _json({**entry, "sha256": hashlib.sha256(_json(entry)).hexdigest()})


_SEAL, _END = b',\n "sha256": "', b'"\n}'  # before and after the checksum, which is the last value


def _unsealed(content: bytes) -> Entry:
    """The entry that `_sealed` has made these bytes of. Raises ValueError if the checksum is not theirs.

    The text is hashed as it lies there: writing its values again, to compare, takes ten times as long.
    """
    text, seal = content[: -(len(_SEAL) + 64 + len(_END))], content[-(len(_SEAL) + 64 + len(_END)) :]
    if seal != _SEAL + hashlib.sha256(text + b"\n}").hexdigest().encode() + _END:
        raise ValueError("no checksum, or another one")
    entry = json.loads(content.decode())
    if isinstance(entry, dict) and entry.keys() == {"result", "files", "sha256"}:
        result, files = entry["result"], entry["files"]
        if isinstance(result, dict) and isinstance(files, dict):
            return Entry(result, files)
    raise ValueError("no entry")


TWICE = "two processes may compute the same stage, which costs time and nothing else"
_warned: set[str] = set()


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        log.warning("%s", message)


def _nothing() -> None:
    """How a claim is given back where there are none."""


def _locked(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _is_at(path: Path, lock: int) -> bool:
    """Whether an open file still has its name: a lock on a file that was removed in between locks nothing."""
    try:
        return os.path.samestat(path.stat(), os.fstat(lock))
    except FileNotFoundError:
        return False


def _tensors_name(file: str) -> str:
    """The name that a file of tensors was put under; earlier versions wrote no part of its checksum into it."""
    return re.sub(r"(-[0-9a-f]{12})?\.safetensors$", "", file)


def _one_request_a_file(location: str) -> str:
    """A small file goes to S3 in one request, not in the three of an upload in parts."""
    if not location.startswith("s3://") or "allow_delayed_open" in location:
        return location
    return f"{location}{'&' if '?' in location else '?'}allow_delayed_open=true"


def _first_line(error: BaseException) -> str:
    said = without_password(str(error))
    return said.splitlines()[0] if said else type(error).__name__
