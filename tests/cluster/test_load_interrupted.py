"""Ctrl-C in the midst of a load: it ends, and says what it measured, wherever the signal came."""

import os
import signal
from concurrent.futures import Future

import pytest

from cluster.load import Interrupted, Load, LoadPlan
from cluster.workload import synthetic

OUTSTANDING = 4


class Prompt:
    """Answers at once; a signal comes while the `at`-th put is being submitted."""

    def __init__(self, at: int, number: signal.Signals, times: int = 1) -> None:
        self.puts = 0
        self._at = at
        self._number = number
        self._times = times

    def put_nowait(self, key: bytes, value: bytes, timeout_s: float) -> Future:
        self.puts += 1
        if self.puts == self._at:
            for _ in range(self._times):
                os.kill(os.getpid(), self._number)
        done: Future = Future()
        done.set_result(None)
        return done


def load(client: Prompt) -> Load:
    plan = LoadPlan(synthetic(10, 10), operations=100, outstanding=OUTSTANDING)
    return Load(client, plan)  # type: ignore[arg-type]  # what it needs of a client


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_something_is_submitted_ends_the_load_with_its_report(
    number: signal.Signals,
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        load(Prompt(3, number)).run()
    assert (caught.value.report.operations, caught.value.report.acked) == (3, 3)
    assert signal.getsignal(number) is before


def test_a_second_interrupt_ends_it_at_once() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        load(Prompt(3, signal.SIGINT, times=2)).run()
    assert not isinstance(caught.value, Interrupted)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_interrupt_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert load(Prompt(3, signal.SIGINT)).run().acked == 100
    finally:
        signal.signal(signal.SIGINT, before)
