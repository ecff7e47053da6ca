"""A file that appears under its name only when it is complete."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import weakref
from pathlib import Path

from fluidvid.errors import OutputError


def check_target(target: Path, source: Path, overwrite: bool) -> None:
    """Refuse early.

    Raises:
        OutputError: the target is the source, a folder or a pipe, exists without `overwrite`, or its folder is missing
            or cannot be written to.
    """
    try:
        _check_place(target, source, overwrite)
    except PermissionError as error:  # nobody may look into its folder
        raise write_error(target, error) from error
    TargetFile(target, overwrite).remove()


def _check_place(target: Path, source: Path, overwrite: bool) -> None:
    if target.parent.exists() and not target.parent.is_dir():
        raise OutputError(f"{target.parent} is no folder: choose another place for the result")
    if target.is_dir():
        raise OutputError(f"{target} is a folder: give the result a file name")
    if target.exists() and not target.is_file():  # it would be replaced by a file, and nothing come out of it
        raise OutputError(f"{target} is a pipe or a device: give the result another name")
    if target.exists() and source.exists() and target.samefile(source):
        raise OutputError(f"{target} is the source itself: choose another name for the result")
    if os.path.lexists(target) and not overwrite:  # also a link that leads nowhere
        raise OutputError(f"{target} exists: add --overwrite to replace it")
    if not target.parent.is_dir():
        raise OutputError(f"folder {target.parent} does not exist: create it first")


class TargetFile:
    """A hidden temporary file beside the target, to be committed or removed."""

    def __init__(self, target: Path, overwrite: bool) -> None:
        """Create the temporary file.

        Raises:
            OutputError: the folder cannot be written to.
        """
        self.target, self._overwrite = target, overwrite
        self.path = target.parent / f".{target.stem[:64]}.{secrets.token_hex(4)}.part{target.suffix}"
        # Armed before the file is there: a signal may end the run between its creation and the caller's own clean-up.
        self._cleanup = weakref.finalize(self, _unlink, self.path)
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except OSError as error:
            raise write_error(target, error) from error

    def commit(self) -> None:
        """Give the file its name; without `overwrite` a target that has appeared meanwhile is left alone.

        Raises:
            OutputError: it cannot be renamed; the temporary file is removed.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if self._overwrite:
                self.path.replace(self.target)
            else:
                self._link()
        except OSError as error:
            self.remove()
            raise write_error(self.target, error) from error
        self._cleanup.detach()

    def _link(self) -> None:
        try:
            os.link(self.path, self.target)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if self.target.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            self.path.rename(self.target)
            return
        self.path.unlink()

    def remove(self) -> None:
        """Leave nothing behind."""
        self._cleanup()


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def write_error(target: Path, error: BaseException) -> OutputError:
    """One line for what went wrong while writing."""
    code = getattr(error, "errno", None)
    if code in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"no space left while writing {target}: free some or choose another disk; no result was written"
        )
    if code == errno.EFBIG:
        return OutputError(f"{target} grows larger than the file system or a limit allows: choose another disk")
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(
            f"no permission to write in {target.parent}: choose another folder or change its permissions"
        )
    if code == errno.EEXIST:
        return OutputError(f"{target} exists: add --overwrite to replace it")
    if code == errno.ENAMETOOLONG:
        return OutputError(f"the file name {target.name[:40]}... is too long: choose a shorter one")
    reason = getattr(error, "strerror", None) or error
    return OutputError(
        f"writing {target} failed ({reason}): no result was written; try another file name ending or --codec"
    )
