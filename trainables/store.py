"""Which stages have been computed, and what came out? A content-addressed store of stage results.

    <storage>/stages/<kind>/<2 hex>/<digest>/  spec.json  result.json  *.safetensors
    <storage>/state/<digest>.safetensors       how far a pretraining run has come
    <storage>/damaged/...                      entries that failed their checksum, set aside

`result.json` is written last and is what makes a stage exist; it carries the checksums of itself and of every file
beside it, so that nothing half written or damaged ever counts. Nothing is unpickled.

Single flight is a kernel lock on a file of the storage folder: the kernel frees it when its owner dies, however it
dies, so there is no expiry to wait for and no clock to trust.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from pyarrow import fs

from trainables.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.spec import StageSpec

log = logging.getLogger(__name__)


class StoreError(UserError):
    """The storage location cannot be used; the message says why, in one line."""


class DamagedEntry(Exception):
    """A stage's files do not match their checksums. The entry has been set aside and counts as not computed."""


class Store:
    """Stage results under one location: a folder, or any URI that `pyarrow.fs` opens (`s3://...`, `gs://...`)."""

    def __init__(self, location: str | Path) -> None:
        """Raises StoreError if the location's URI cannot be opened."""
        self.location = str(location)
        if ":" in urlsplit(self.location).netloc.rpartition("@")[0]:
            bare = re.sub(r"//[^/]*@", "//", self.location)
            raise StoreError(
                f"storage {bare!r} was given with a password in its URI, which would be shown and kept; give it in the "
                "environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), or in a file of credentials"
            )
        try:
            if "://" in self.location:
                self._fs, self._root = fs.FileSystem.from_uri(self.location)
            else:
                self._fs, self._root = fs.LocalFileSystem(), str(Path(self.location).expanduser().absolute())
        except (OSError, ValueError) as error:
            raise StoreError(f"storage {self.location!r} cannot be opened: {_first_line(error)}") from error
        self._root = self._root.rstrip("/")
        self.is_folder = isinstance(self._fs, fs.LocalFileSystem)

    def check(self) -> None:
        """Raises StoreError unless a file can be written, read back and removed."""
        name, content = f"check-{uuid.uuid4().hex}", b"bottleneck"
        self.write(name, content)
        with self._asked("written"):
            if self.read(name) != content:
                raise OSError("a file did not read back as it was written")
            self._fs.delete_file(self._path(name))

    # Stages -------------------------------------------------------------------------------------------------------

    def existing(self, stages: Iterable[tuple[str, str]]) -> set[str]:
        """The digests among (kind, digest) pairs that have a result; their checksums are not read."""
        wanted = list(stages)
        paths = [self._path(f"{_folder(kind, digest)}/result.json") for kind, digest in wanted]
        with self._asked("read"):
            if self._fs.get_file_info(self._path("stages")).type == fs.FileType.NotFound:
                return set()
            infos = self._fs.get_file_info(paths)
        return {d for (_, d), info in zip(wanted, infos, strict=True) if info.type == fs.FileType.File}

    def get(self, kind: str, digest: str) -> dict[str, Any] | None:
        """The result of a stage, or None. A damaged entry is set aside and is None."""
        try:
            return self._entry(kind, digest)["result"]  # type: ignore[no-any-return]
        except FileNotFoundError:
            return None
        except DamagedEntry:
            return None

    def tensors(self, kind: str, digest: str, name: str) -> dict[str, Tensor]:
        """The tensors of a stage's file `name`.safetensors.

        Raises:
            DamagedEntry: the file fails its checksum; the entry has been set aside.
            FileNotFoundError: there is no such stage.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        entry = self._entry(kind, digest)
        file = f"{name}.safetensors"
        try:
            content = self.read(f"{_folder(kind, digest)}/{file}")
        except FileNotFoundError:
            content = b""
        if hashlib.sha256(content).hexdigest() != entry["files"].get(file):
            self._set_aside(kind, digest, f"{file} does not match its checksum")
            raise DamagedEntry(f"{kind} {digest[:12]}: {file}")
        try:
            tensors: dict[str, Tensor] = load(content)
        except SafetensorError as error:
            self._set_aside(kind, digest, f"{file} is no safetensors file")
            raise DamagedEntry(f"{kind} {digest[:12]}: {file}") from error
        return tensors

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
            self.write(f"{folder}/{name}.safetensors", content)
            files[f"{name}.safetensors"] = hashlib.sha256(content).hexdigest()
        self.write(f"{folder}/spec.json", _json({"kind": stage.kind, "spec": as_json(stage)}))
        self.write(f"{folder}/result.json", _sealed({"result": dict(result), "files": files}))

    def remove(self, kind: str, digest: str) -> None:
        """Forget a stage, so that it is computed again when it is next needed."""
        self._fs.delete_dir(self._path(_folder(kind, digest)))

    def _entry(self, kind: str, digest: str) -> dict[str, Any]:
        content = self.read(f"{_folder(kind, digest)}/result.json")
        try:
            entry = json.loads(content)
            intact = content == _sealed({"result": entry["result"], "files": entry["files"]})
            intact = intact and isinstance(entry["result"], dict) and isinstance(entry["files"], dict)
        except (ValueError, KeyError, TypeError, RecursionError):
            intact = False
        if not intact:
            self._set_aside(kind, digest, "result.json does not match its checksum")
            raise DamagedEntry(f"{kind} {digest[:12]}: result.json")
        return entry  # type: ignore[no-any-return]

    def _set_aside(self, kind: str, digest: str, why: str) -> None:
        place = f"damaged/{kind}-{digest[:16]}-{int(time.time())}-{uuid.uuid4().hex[:6]}"
        log.warning("stage %s %s: %s; set aside as %s and computed again", kind, digest[:12], why, place)
        with contextlib.suppress(FileNotFoundError):  # another process was first
            if self.is_folder:
                self._fs.create_dir(self._path("damaged"))
                self._fs.move(self._path(_folder(kind, digest)), self._path(place))
            else:  # object stores have no folders to move; without its result the entry does not exist
                self._fs.move(self._path(f"{_folder(kind, digest)}/result.json"), self._path(f"{place}-result.json"))

    # Work in progress ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def claim(self, digest: str) -> Iterator[bool]:
        """Hold the right to compute a stage. False, at once, if another process or thread holds it.

        Only a folder has locks. Elsewhere the answer is True: two processes may then compute the same stage, and
        both write the same entry.
        """
        if not self.is_folder:
            yield True
            return
        path = Path(self._path(f"locks/{digest}.lock"))
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def save_state(self, digest: str, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> None:
        """Keep how far a stage has come, in place of what was kept before."""
        from safetensors.torch import save

        content = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, dict(meta))
        self.write(f"state/{digest}.safetensors", hashlib.sha256(content).digest() + content)

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
        with contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(self._path(f"state/{digest}.safetensors"))

    # Files --------------------------------------------------------------------------------------------------------

    def read(self, name: str) -> bytes:
        """The content of a file below the location. Raises FileNotFoundError."""
        with self._asked("read"), self._fs.open_input_file(self._path(name)) as file:
            return bytes(file.read())

    def write(self, name: str, content: bytes) -> None:
        """Write a file below the location: readers see the old one or the whole new one, never a part."""
        path = self._path(name)
        if not self.is_folder:  # an object store shows an object when its upload has ended
            with self._asked("written"), self._fs.open_output_stream(path) as stream:
                stream.write(content)
            return
        target = Path(path)
        part = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:6]}")
        with self._asked("written"):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                part.write_bytes(content)
                part.replace(target)
            finally:
                with contextlib.suppress(OSError):
                    part.unlink()

    def delete(self, name: str) -> None:
        """Remove a file below the location, if there is one."""
        with self._asked("written"), contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(self._path(name))

    def append(self, name: str, line: bytes) -> None:
        """Add a line to a file that only this process writes."""
        if self.is_folder:
            path = Path(self._path(name))
            with self._asked("written"):
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("ab") as file:
                    file.write(line)
            return
        try:
            before = self.read(name)
        except FileNotFoundError:
            before = b""
        self.write(name, before + line)

    def names(self, folder: str) -> list[str]:
        """The files and folders directly below a folder, sorted; none if there is no such folder."""
        selector = fs.FileSelector(self._path(folder), allow_not_found=True)
        with self._asked("read"):
            infos = self._fs.get_file_info(selector)
        return sorted(info.base_name for info in infos if not info.base_name.startswith("."))

    @property
    def folder(self) -> str | None:
        """The location as a path; None if it is no folder of a file system."""
        return self._root if self.is_folder else None

    def path(self, name: str) -> str:
        """Where a file lies, for people and for programs that open it themselves."""
        return self._path(name) if self.is_folder else f"{self.location.rstrip('/')}/{name}"

    @contextlib.contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        """What the file system cannot do becomes a StoreError of one line; a file to read may be missing, though."""
        try:
            yield
        except OSError as error:
            if what == "read" and isinstance(error, FileNotFoundError):
                raise
            raise StoreError(f"storage {self.location!r} cannot be {what}: {_first_line(error)}") from error

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _folder(kind: str, digest: str) -> str:
    if not (kind.isidentifier() and digest.isalnum()):  # a plan that someone else has written leads nowhere else
        raise StoreError(f"found {kind!r} and {digest[:100]!r} in place of a kind of stage and its digest")
    return f"stages/{kind}/{digest[:2]}/{digest}"


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode()


def _sealed(entry: Mapping[str, Any]) -> bytes:
    """The bytes of an entry with the checksum of all the rest in it."""
    return _json({**entry, "sha256": hashlib.sha256(_json(entry)).hexdigest()})


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
