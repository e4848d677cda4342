"""Files: written whole or not at all (beside, flushed to the disk, then renamed), read, locked."""

import contextlib
import ctypes
import errno
import fcntl
import io
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from metasd import errors
from metasd.errors import InputError, error_context, nearest

_LOCK = ".lock"
_NO_FOLDER = -100  # AT_FDCWD
_LARGEST_JSON = 16 << 20  # bytes; parsed, at most some 400 MB
_LARGEST_LINES = 32 << 20
_LARGEST_YAML = 1 << 20
_DEEPEST_YAML = 50


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a file for reading; all that a graph, model or run folder holds is opened by this.

    Raises:
        OSError: it is a pipe, device, socket or folder. Opening a pipe would wait for a writer, and
            a device may have no end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return open(descriptor, "rb")


def check_regular(path: str | os.PathLike[str]) -> None:
    """OSError unless `open_regular` opens it: before a library opens it by its name."""
    open_regular(path).close()


def read_file(path: str | os.PathLike[str], limit: int = _LARGEST_JSON) -> bytes:
    """The content of a regular file; OSError of one with more than `limit` bytes."""
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit >> 20} MiB", os.fspath(path))
    return content


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a JSON file holds; InputError if it cannot be read, or is something else."""
    try:
        return json.loads(read_file(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not JSON") from None


def as_path(value: object, what: str) -> Path:
    """A path of text or a path; InputError, which says `what` was wanted, of anything else."""
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{what} is given by its path; got {type(value).__name__}")
    return Path(value)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write(temporary path)`, flushes it to the disk and renames it to `path`.

    Whatever happens, `path` holds either its old content or the whole new one.
    """
    temporary = temporary_path(path)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # by the umask: a library may make a file of its own
        write(temporary)
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # of a full disk none is said
        raise
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)


def check_new_folder(path: Path, names: Collection[str] = (), overwrite: bool = False) -> None:
    """Raises InputError unless `new_folder` can make `path`; see its arguments."""
    if not path.name or path.name in ("-", ".."):
        raise InputError(f'a folder needs a name of its own; got "{path}"')
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not path.is_dir():
        raise InputError(f"{path} already exists and is not a folder")
    if other := sorted(file.name for file in path.iterdir() if file.name not in names):
        hint = f", and holds {other[0]}, which would be lost; give another folder" if names else ""
        raise InputError(f"{path} already exists{hint}")
    if not overwrite:
        raise InputError(f"{path} already exists; --overwrite (overwrite=True) replaces it")


@contextlib.contextmanager
def new_folder(path: Path, names: Collection[str] = (), overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path`; flushed to the disk and renamed to it at the end.

    `path` appears whole or not at all. What an earlier process left when it was killed is removed.

    Args:
        path: the folder. An empty one is replaced.
        names: of the files in a folder that may be replaced: one with any other is not.
        overwrite: replaces an older folder with such files only.

    Raises:
        InputError: there is something else at `path`, or another process is making it.
    """
    check_new_folder(path, names, overwrite)
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        with lock(temporary, "writing"), errors.writing():
            try:
                check_new_folder(path, names, overwrite)  # another process may have been first
                for left in temporary.iterdir():
                    if left.name != _LOCK:
                        _remove(left)
                yield temporary
                for file in temporary.rglob("*"):
                    _flush(file)
                (temporary / _LOCK).unlink()
                _put_in_place(temporary, path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        _flush(path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror or error})") from None


def _put_in_place(new: Path, path: Path) -> None:
    """Renames a folder; what was at `path` is then at `new`.

    The two change places at once where the system can do that: there is always one at `path`.
    """
    if not path.exists():
        new.replace(path)
    elif not _exchange(new, path):
        old = path.with_name(f".{path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        path.replace(old)
        new.replace(path)
        old.replace(new)


def _exchange(first: Path, second: Path) -> bool:
    """Gives two paths each other's folder; False where the system or the disk cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(first.absolute()), os.fsencode(second.absolute())
    return rename is not None and rename(_NO_FOLDER, names[0], _NO_FOLDER, names[1], 2) == 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _flush(path: Path) -> None:
    """Writes what the system still holds of a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_path(path: Path) -> Path:
    """Where a file is written before it is renamed to `path`."""
    return path.with_name(f".{path.name}.tmp")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes a text file line by line."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in lines)

    write_atomically(path, write)


def read_json_lines(path: Path) -> list[Any]:
    """The values of a file of JSON lines, none without the file; a line cut short ends it."""
    if not path.exists():
        return []
    records = []
    try:
        lines = read_file(path, _LARGEST_LINES).splitlines(keepends=True)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    for line in lines:
        if not line.endswith(b"\n"):
            break
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return records


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: _write(temporary, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def read_description(
    path: str | Path, what: str, needed: str, keys: Sequence[str]
) -> dict[str, Any]:
    """The keys and values of a YAML file; of `keys`, graph and `needed` must be there."""
    content = read_yaml(path)
    with error_context(path):
        if not isinstance(content, dict) or not content.get("graph") or not content.get(needed):
            raise InputError(f"{what} needs graph and {needed}")
        if unknown := [str(key) for key in content if key not in keys]:
            raise InputError(f"unknown key {unknown[0]}{nearest(unknown[0], keys)}")
    return content


def read_yaml(path: str | Path) -> Any:
    """What a YAML file holds; InputError if it cannot be read, or sets a key twice."""
    import yaml  # compressed models are answered from without it

    path = as_path(path, "a YAML file")
    try:
        return yaml.load(read_file(path, _LARGEST_YAML).decode(), _loader())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None


def _loader() -> Any:
    """PyYAML's safe loader, but 1e-3 (without a point) is a number, a key given twice an error.

    Deep nesting, for which PyYAML takes quadratic time, and aliases, by which a line may stand for
    gigabytes, are errors, too.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def fetch_more_tokens(self) -> Any:
            if self.flow_level + len(self.indents) > _DEEPEST_YAML:
                raise yaml.YAMLError(f"nested more than {_DEEPEST_YAML} deep")
            return super().fetch_more_tokens()

        def fetch_alias(self) -> None:
            raise yaml.YAMLError("aliases are not read")

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            scalars = [key for key, _ in node.value if key.tag.endswith((":str", ":int", ":bool"))]
            keys = [self.construct_object(key) for key in scalars]
            for i, key in enumerate(keys):
                if key in keys[:i]:
                    line = scalars[i].start_mark.line + 1
                    raise yaml.YAMLError(f"{key!r} in line {line} is there a second time")
            return super().construct_mapping(node, deep)

    number = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return Loader


@contextlib.contextmanager
def lock(folder: Path, doing: str = "training") -> Iterator[None]:
    """One process a folder; the system lets go of the lock however the process ends."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(folder / _LOCK, flags, 0o666), "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{folder}: another process is {doing} in this folder") from None
        yield


@contextlib.contextmanager
def followed(path: Path) -> Iterator[Callable[[], Path]]:
    """Opens a folder; what is given says where it is now, on Linux also if it was moved.

    Raises:
        InputError: when asked, the folder is gone, or the system does not say where it went.
    """
    descriptor = os.open(path, os.O_RDONLY)

    def now() -> Path:
        with contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return path
        with contextlib.suppress(OSError):
            moved = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if os.path.samestat(moved.stat(), os.fstat(descriptor)):
                return moved
        raise InputError(f"{path}: the folder was removed, or moved to a place that is not known")

    try:
        yield now
    finally:
        os.close(descriptor)
