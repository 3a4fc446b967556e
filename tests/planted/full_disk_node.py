"""A real node whose disk is full for as long as a file exists: ENOSPC wherever a file would grow.

Entry option `full_flag`: path of that file.
"""

import errno
import os
import sys
from pathlib import Path

from node.main import main
from wal import OsFilesystem


class File:
    def __init__(self, inner, flag):
        self._inner = inner
        self._flag = flag

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def _grow_to(self, end):
        if end > self._inner.size() and self._flag.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def pwritev(self, buffers, offset):
        self._grow_to(offset + sum(map(len, buffers)))
        self._inner.pwritev(buffers, offset)

    def zero_fill(self, offset, length):
        self._grow_to(offset + length)
        self._inner.zero_fill(offset, length)

    def allocate(self, offset, length):
        self._grow_to(offset + length)
        self._inner.allocate(offset, length)


class FullFilesystem(OsFilesystem):
    def __init__(self, flag):
        super().__init__()
        self._flag = flag

    def open(self, path, *, create=False):
        return File(super().open(path, create=create), self._flag)


if __name__ == "__main__":
    sys.exit(
        main(make_filesystem=lambda c: FullFilesystem(Path(str(c.entry_options["full_flag"]))))
    )
