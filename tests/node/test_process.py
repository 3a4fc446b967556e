"""Small parts of the process; the whole of it: `tests/process/test_node_process.py`."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator

import pytest

from node.process import MonotonicClock, Wake


@pytest.fixture
def wake() -> Iterator[Wake]:
    wake = Wake()
    yield wake
    wake.close()


def is_awake(wake: Wake) -> bool:
    return bool(select.select([wake.fd], [], [], 0)[0])


def test_a_wake_up_is_seen_once_however_often_it_was_called(wake: Wake) -> None:
    assert not is_awake(wake)
    for _ in range(10_000):
        wake()
    assert is_awake(wake)
    wake.drain()
    assert not is_awake(wake)
    wake()
    assert is_awake(wake)


def test_a_full_pipe_neither_blocks_nor_fails(wake: Wake) -> None:
    """Whoever wakes may be a signal handler or the log's thread: neither may wait."""
    for _ in range(200_000):  # a pipe holds 65,536 bytes
        wake()
    wake.drain()
    assert not is_awake(wake)


def test_another_thread_ends_a_wait(wake: Wake) -> None:
    caller = threading.Thread(target=wake)
    caller.start()
    assert select.select([wake.fd], [], [], 10)[0]
    caller.join()


def test_draining_an_empty_pipe_does_nothing(wake: Wake) -> None:
    wake.drain()
    assert not is_awake(wake)


def test_the_ends_of_the_pipe_are_not_inherited(wake: Wake) -> None:
    assert not os.get_inheritable(wake.fd)


def test_the_clock_never_falls() -> None:
    clock = MonotonicClock()
    times = [clock.now_ns() for _ in range(1_000)]
    assert times == sorted(times)
