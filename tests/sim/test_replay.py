"""The same seed is the same story, to the byte, whatever Python's hash seed is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.sim.campaign import run_seed, trace_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("seed", [1, 2, 17])
def test_the_same_seed_gives_the_same_trace(seed: int) -> None:
    outcome, text = trace_of(seed)
    again, repeated = trace_of(seed)
    assert text == repeated
    assert outcome == again
    assert text.count("\n") > 100


def test_tracing_changes_nothing() -> None:
    outcome, _ = trace_of(5)
    assert outcome == run_seed(5)


def test_different_seeds_give_different_traces() -> None:
    assert trace_of(1)[1] != trace_of(2)[1]


def traced_in_a_process(hash_seed: str) -> str:
    answer = subprocess.run(
        [sys.executable, "-m", "cluster.sim", "--seed", "11", "--trace"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        timeout=30,
    )
    return answer.stdout


def test_the_trace_does_not_depend_on_the_hash_seed() -> None:
    first = traced_in_a_process("1")
    assert first.count("\n") > 100
    assert first == traced_in_a_process("4242")


DIGESTS = """
import hashlib, sys
from cluster.sim.campaign import trace_of
first, count = int(sys.argv[1]), int(sys.argv[2])
for profile in ("lite", "swarm"):
    for seed in range(first, first + count):
        text = trace_of(seed, profile=profile)[1]
        print(profile, seed, hashlib.sha256(text.encode()).hexdigest())
"""


def digests(count: int) -> list[str]:
    """Trace so many seeds of both profiles in two processes of different hash seeds, at once."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", DIGESTS, "1", str(count)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.getcwd()},
        )
        for hash_seed in ("1", "4711")
    ]
    try:
        return [process.communicate()[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.timeout(240)
def test_traces_are_the_same_under_different_hash_seeds() -> None:
    one, other = digests(15)
    assert one == other
    assert len(set(one.splitlines())) == 30


@pytest.mark.long("sim")
@pytest.mark.timeout(2400)
def test_two_hundred_traces_are_the_same_under_different_hash_seeds() -> None:
    one, other = digests(100)
    assert one == other
    assert len(set(one.splitlines())) == 200
