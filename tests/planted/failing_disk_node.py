"""A real node whose disk fails to sync while a file exists: EIO from fdatasync, what a dying disk says.

Entry option `fail_flag`: path of that file.
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

    def datasync(self):
        if self._flag.exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._inner.datasync()


class FailingFilesystem(OsFilesystem):
    def __init__(self, flag):
        super().__init__()
        self._flag = flag

    def open(self, path, *, create=False):
        return File(super().open(path, create=create), self._flag)


if __name__ == "__main__":
    sys.exit(
        main(make_filesystem=lambda c: FailingFilesystem(Path(str(c.entry_options["fail_flag"]))))
    )
