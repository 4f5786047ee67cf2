"""Room on the disk, looked for before HDF5 finds out half way that there is none.

HDF5 survives a full disk badly: it may fail to close a file then, or crash.
"""

from __future__ import annotations

import errno
import os
import resource

MARGIN = 2 << 20
"""Bytes of the disk that are left free, so that a full disk still lets us close the file well."""


def require_space(file: int | str, size: int) -> None:
    """Make sure that `size` bytes can be added to a file, given by its descriptor or path.

    Raises
    ------
    OSError
        The disk has not so much left (ENOSPC), or the file may not grow so much (EFBIG: ``ulimit -f``).
    """
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and os.stat(file).st_size + size + MARGIN > limit:
        raise OSError(errno.EFBIG, f"the file may not grow beyond {limit} bytes (ulimit -f)")
    disk = os.statvfs(file)
    free = disk.f_bavail * disk.f_frsize
    if disk.f_blocks and free < size + MARGIN:
        raise OSError(errno.ENOSPC, f"the disk is full: {free >> 10} KiB are left")
