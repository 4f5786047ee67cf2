"""The files of a snapshot: which suffix is which format, checks before work, and writing all or nothing.

The formats themselves are in `daqca.snapshot.text` and `daqca.snapshot.hdf5`, imported when they are needed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from daqca.errors import ConfigurationError, RecordingError

if TYPE_CHECKING:
    from daqca.snapshot.container import Snapshot

SUFFIXES = (".h5", ".csv", ".json")


def save(snapshot: Snapshot, path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Write `snapshot` to `path`; see `daqca.snapshot.Snapshot.save`."""
    target = check_target(path, overwrite)
    write_whole(target, _dump(target.suffix)(snapshot), overwrite)


def load(path: str | os.PathLike[str]) -> Snapshot:
    """Read a snapshot from `path`; see `daqca.snapshot.Snapshot.load`."""
    source = Path(path)
    parse = _parse(check_suffix(source))
    try:
        content = source.read_bytes()
    except OSError as error:
        raise RecordingError(f"cannot read the snapshot {source}: {error.strerror}") from error
    try:
        return parse(content)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise RecordingError(f"{source} holds no snapshot that can be read: {error}") from error


def _dump(suffix: str) -> Callable[[Snapshot], bytes]:
    if suffix == ".h5":
        from daqca.snapshot.hdf5 import dump_hdf5

        return dump_hdf5
    from daqca.snapshot.text import dump_csv, dump_json

    return dump_csv if suffix == ".csv" else dump_json


def _parse(suffix: str) -> Callable[[bytes], Snapshot]:
    if suffix == ".h5":
        from daqca.snapshot.hdf5 import parse_hdf5

        return parse_hdf5
    from daqca.snapshot.text import parse_csv, parse_json

    return parse_csv if suffix == ".csv" else parse_json


def check_suffix(path: Path) -> str:
    """The suffix of `path`, if it names a format.

    Raises
    ------
    ConfigurationError
        If it does not.
    """
    if path.suffix not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise ConfigurationError(
            f"cannot tell the format of {path} from its suffix {path.suffix!r}: use one of {known}"
        )
    return path.suffix


def check_target(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Say now, before anything is read, whether a snapshot could be written to `path`.

    Returns
    -------
    The path, with symbolic links followed, so that a link's target is replaced and not the link.

    Raises
    ------
    ConfigurationError
        If the suffix names no format.
    RecordingError
        If the file exists and `overwrite` is false, or if the folder is not there or not writable.
    """
    check_suffix(Path(path))
    return check_place(path, overwrite)


def check_place(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Say now whether a file could be made at `path`, whatever its suffix; see `check_target`."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise RecordingError(f"cannot write {path}: it is a folder")
    if target.exists():
        if not overwrite:
            raise _exists(target)
        if not os.access(target, os.W_OK):
            raise RecordingError(f"cannot overwrite {path}: it is not writable")
    probe = _part(target)
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        os.unlink(probe)
    except OSError as error:
        raise _unwritable(target, error) from error
    return target


def write_whole(path: Path, content: bytes, overwrite: bool) -> None:
    """Write `content` to `path` so that the file is there complete or as it was before.

    It is written to a file beside, brought to disk, and then given its name.

    Raises
    ------
    RecordingError
        If it cannot be written, or if the file exists and `overwrite` is false.
    """
    part = _part(path)
    try:
        with open(part, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(part, path)
        else:
            _name_new(part, path)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(part)


def _name_new(part: Path, path: Path) -> None:
    """Give `part` the name `path` unless there is one of this name, in one step where the file system can."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:
        # No hard links here (FAT, some network shares): check, then rename.
        if path.exists():
            raise FileExistsError(str(path)) from None
        os.replace(part, path)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name[:200]}.{os.getpid()}.part")


def _exists(path: Path) -> RecordingError:
    return RecordingError(f"{path} exists: choose another name, or ask to overwrite it")


def _unwritable(path: Path, error: OSError) -> RecordingError:
    return RecordingError(f"cannot write {path}: {error.strerror or error}")
