"""The composition root of one node process: `python -P -m node --config FILE`.

Reads the configuration, claims the data directory, opens the log, runs the process, and turns
every way it can end into one line on stderr and one exit code (docs/ARCHITECTURE.md §9).
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

from node.config import NodeConfig
from node.console import say
from node.exits import NodeExit, StartError
from node.faults import DiskFaults
from node.identity import Identity, claim_directory, recognise_directory, write_atomically
from node.lifeline import die_with_parent
from node.page import PageError, PageWriter
from node.process import NodeProcess, Start, Wake
from wal import (
    CorruptLogError,
    DiskFullError,
    IdentityMismatchError,
    LockedError,
    Log,
    LogIdentity,
    OpenOptions,
    OsFilesystem,
    OtherFormatError,
    PoisonedLogError,
    Recovered,
    TornTailError,
    WalError,
)
from wal.compression import CODECS, require
from wal.filesystem import TunableFilesystem

__all__ = ["main", "run"]

INCARNATION_FILE: Final = "INCARNATION"
INCARNATION_MAX: Final = 1 << 48
"""More starts than anybody counts; the number fits every field that carries it."""
BEGIN_LOOK_S: Final = 0.05
"""How often a first start that waits for its disk looks whether that is full."""

_EXITS: Final[dict[type[WalError], NodeExit]] = {
    CorruptLogError: NodeExit.CORRUPT_LOG,
    TornTailError: NodeExit.CORRUPT_LOG,
    IdentityMismatchError: NodeExit.FOREIGN_IDENTITY,
    LockedError: NodeExit.IN_USE,
    OtherFormatError: NodeExit.OTHER_FORMAT,
    PoisonedLogError: NodeExit.POISONED_LOG,
    DiskFullError: NodeExit.DATA_DIR_UNUSABLE,
}


def main(
    arguments: Sequence[str] | None = None,
    make_filesystem: Callable[[NodeConfig], TunableFilesystem] = lambda _: OsFilesystem(),
) -> int:
    """Run a node until it stops; return its exit code.

    `make_filesystem` is what another entry module passes to give the log a disk of its own making
    (`ClusterSpec.entry_module`); the product has one. In front of either stands `node.faults`.
    """
    try:
        parsed = _parse(arguments)
        if parsed.parent_pid is not None and not die_with_parent(parsed.parent_pid):
            say(f"process {parsed.parent_pid} is not the parent (any more): nothing to do here")
            return NodeExit.CLEAN
        config = NodeConfig.load(parsed.config)
        return run(config, parsed, DiskFaults(config, make_filesystem(config)))
    except StartError as error:
        return _fail(error.exit_code, str(error))
    except WalError as error:
        codes = [code for kind, code in _EXITS.items() if isinstance(error, kind)]
        return _fail(codes[0] if codes else NodeExit.POISONED_LOG, str(error))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        code = NodeExit.DATA_DIR_UNUSABLE if full else NodeExit.POISONED_LOG
        where = error.filename or "the log"
        return _fail(code, f"{where}: {error.strerror}; check the disk, then start the node again")


def run(config: NodeConfig, parsed: argparse.Namespace, disk: DiskFaults) -> int:
    """Claim the directory, open the log, run turns, stop cleanly."""
    require(CODECS[config.compression])
    own = recognise_directory if parsed.prepared else claim_directory
    own(config.data_dir, Identity(config.cluster_id, config.node))
    wake = Wake()
    with _starting(config):
        starts = _starts_before(config.data_dir)
        began_ns = time.monotonic_ns()
        log, recovered = _open_log(config, disk.filesystem, begun=starts > 0)
        recovery_ns = time.monotonic_ns() - began_ns
    try:
        if not starts:
            _await_beginning(config, log)
        incarnation = starts + 1
        with _starting(config):
            write_atomically(config.data_dir / INCARNATION_FILE, f"{incarnation}\n")
        start = Start(
            incarnation,
            parsed.lifeline_fd,
            parsed.parent_pid,
            disk,
            recovery_ns=recovery_ns,
            page=parsed.page,
        )
        _report_recovery(recovered)
        with _starting(config):
            process = NodeProcess(config, start, (log, recovered), wake)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: process.request_stop())
        gc.collect()
        gc.freeze()
        try:
            code = process.run()
        finally:
            process.close()
    except BaseException:
        log.abort()
        raise
    if not log.seal_and_close():
        failure = process.log_failure()
        if isinstance(failure, PoisonedLogError):
            raise failure
        say("stopped without a seal: the disk is full; free space before the next start")
    return code


@contextlib.contextmanager
def _starting(config: NodeConfig) -> Iterator[None]:
    """Turn an OSError of a start into one that names the directory: nothing has run yet."""
    try:
        yield
    except OSError as error:
        code = NodeExit.POISONED_LOG if error.errno == errno.EIO else NodeExit.DATA_DIR_UNUSABLE
        where = error.filename or f"data directory {config.data_dir}"
        text = f"{where}: {error.strerror}; check its owner, mode and free space"
        raise StartError(code, text) from None


class _Parser(argparse.ArgumentParser):
    """Ends with the node's own exit code for wrong usage, not with argparse's 2."""

    def error(self, message: str) -> NoReturn:
        raise StartError(NodeExit.USAGE, f"{message}; see: python -P -m node --help")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -P -m node",
        description="One node of a raftdeck cluster. Started by the supervisor; to run a cluster,"
        " use `raftdeck up`.",
        epilog="example: python -P -m node --config /path/to/n1/node.json",
    )
    parser.add_argument("--config", type=Path, required=True, help="JSON file (node.config)")
    parser.add_argument("--parent-pid", type=int, help="exit when this process is not the parent")
    parser.add_argument("--lifeline-fd", type=int, help="stop at end of file on this descriptor")
    parser.add_argument("--status-fd", type=int, help="write the status to this page (node.page)")
    parser.add_argument(
        "--prepared",
        action="store_true",
        help="the data directory was prepared for this node: refuse one that was emptied since",
    )
    parsed = parser.parse_args(arguments)
    if parsed.lifeline_fd is not None:
        try:
            os.fstat(parsed.lifeline_fd)
        except OSError:
            parser.error(f"--lifeline-fd {parsed.lifeline_fd}: no open descriptor")
    try:
        parsed.page = None if parsed.status_fd is None else PageWriter(parsed.status_fd)
    except PageError as error:
        parser.error(f"--status-fd: {error}")
    return parsed


def _open_log(
    config: NodeConfig, filesystem: TunableFilesystem, *, begun: bool
) -> tuple[Log, Recovered]:
    options = OpenOptions(
        policy=config.wal, clock=time.monotonic_ns, recovery=config.recovery, begun=begun
    )
    identity = LogIdentity(config.cluster_id_bytes, config.node)
    return Log.open(filesystem, str(config.wal_dir), identity, options)


def _await_beginning(config: NodeConfig, log: Log) -> None:
    """Wait until the log's first record is durable: from then on a start without a log is refused.

    Only then may the start be counted. In the other order a power cut in between would leave a
    count and no log, and a node that lost nothing would be refused.
    """
    beginning = log.flush()
    while True:
        try:
            beginning.wait(BEGIN_LOOK_S)
        except TimeoutError:
            if log.disk_full:
                raise StartError(
                    NodeExit.DATA_DIR_UNUSABLE,
                    f"{config.wal_dir}: no space for the beginning of a log; free some, then start"
                    " the node again",
                ) from None
        else:
            return


def _starts_before(data_dir: Path) -> int:
    """Return how often the node was started here before: peers tell its lives apart by it."""
    path = data_dir / INCARNATION_FILE
    try:
        last = int(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        last = 0
    except ValueError:
        last = -1
    if not 0 <= last < INCARNATION_MAX:
        raise StartError(
            NodeExit.DATA_DIR_UNUSABLE,
            f"{path}: not a count of starts; restore it, or write a number into it that is larger than"
            " the node can have been started, such as 1000000. Without the file a lost log is not"
            " noticed, and peers that run take the node for an earlier life of itself",
        )
    return last


def _report_recovery(recovered: Recovered) -> None:
    if recovered.torn is not None:
        torn = recovered.torn
        say(
            f"torn tail: {torn.bytes} bytes cut at segment {torn.position >> 32:08d}, byte"
            f" {torn.position & 0xFFFF_FFFF} ({torn.reason}); nothing acknowledged was in it"
        )
    stop = "a clean stop" if recovered.sealed else "no clean stop"
    say(f"recovered {recovered.frames} frames after {stop}; pid {os.getpid()}")


def _fail(code: NodeExit, text: str) -> int:
    say(f"error: {text}")
    return code
