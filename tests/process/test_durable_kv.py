"""The workshop's store: killed with SIGKILL while it writes, opened again, nothing lost."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from scripts._workshop_steps import kill_writer
from scripts.durable_kv import DurableKV
from tests.wal.crashfs import CrashFilesystem
from tests.wal.support import ROOT, SMALL
from wal import OsFilesystem

pytestmark = pytest.mark.process


def found(directory: Path, acknowledged: int) -> int:
    with DurableKV(OsFilesystem(), str(directory)) as store:
        return sum(
            store.get(b"key %d" % number) == b"value %d" % number
            for number in range(1, acknowledged + 1)
        )


def test_what_was_acknowledged_survives_sigkill_again_and_again(tmp_path: Path) -> None:
    acknowledged = 0
    for life in range(3):
        acknowledged = kill_writer(tmp_path / "store", acknowledged + 100)
        assert acknowledged >= 100 * (life + 1)
        assert found(tmp_path / "store", acknowledged) == acknowledged


def test_a_store_that_acknowledges_too_early_loses_keys_and_the_check_sees_it(
    tmp_path: Path,
) -> None:
    acknowledged = kill_writer(tmp_path / "store", 1_500, ["--unsafe"])
    there = found(tmp_path / "store", acknowledged)
    assert there < acknowledged
    answer = subprocess.run(
        [sys.executable, "-m", "scripts.durable_kv", "check", str(tmp_path / "store"),
         str(acknowledged)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert answer.returncode == 1
    assert f"acknowledged {acknowledged}, found {there}" in answer.stdout


# ---- without processes -------------------------------------------------------------------


def test_the_store_is_a_dictionary_that_is_there_again() -> None:
    fs, model, rng = CrashFilesystem(), dict[bytes, bytes](), random.Random(5)
    for _ in range(6):
        with DurableKV(fs, "/store", SMALL) as store:
            assert store.items() == model
            for _ in range(60):
                key = b"k%d" % rng.randrange(20)
                if rng.random() < 0.3:
                    assert store.delete(key) == (model.pop(key, None) is not None)
                elif rng.random() < 0.2:
                    pairs = {b"k%d" % n: rng.randbytes(300) for n in range(5)}
                    store.put_many(pairs)
                    model |= pairs
                else:
                    model[key] = rng.randbytes(rng.randrange(2000))
                    store.put(key, model[key])
                assert store.get(key) == model.get(key)
            if rng.random() < 0.5:
                store.compact()
            assert len(store) == len(model)


@pytest.mark.parametrize("seed", range(20))
def test_a_power_cut_keeps_what_was_acknowledged(seed: int) -> None:
    rng = random.Random(seed)
    fs, acked = CrashFilesystem(), dict[bytes, bytes]()
    for _ in range(3):
        store = DurableKV(fs, "/store", SMALL)
        assert store.items() == acked
        for _ in range(rng.randrange(30)):
            key, value = b"k%d" % rng.randrange(9), rng.randbytes(700)
            store.put(key, value)
            acked[key] = value
        if rng.random() < 0.5:
            store.compact()
        store.log.abort()
        fs.power_cut(rng)


def test_the_log_is_written_anew_when_it_holds_much_more_than_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("scripts.durable_kv.LOG_BYTES_MIN", 100_000)
    fs = CrashFilesystem()
    with DurableKV(fs, "/store", SMALL) as store:
        for number in range(1_000):
            store.put(b"one key", b"%d" % number * 200)
        assert store.log.stats().segments <= 5
        assert store.log.stats().segments_released > 3
    with DurableKV(fs, "/store", SMALL) as store:
        assert store.get(b"one key") == b"999" * 200
        assert store.replayed < 300


def test_writers_of_one_key_leave_what_the_log_says(tmp_path: Path) -> None:
    """Their threads wake in any order; the store, also a compacted one, follows the log's."""
    for turn in range(5):
        with DurableKV(OsFilesystem(), str(tmp_path / "store")) as store:

            def write(number: int, store: DurableKV = store, turn: int = turn) -> None:
                for at in range(40):
                    store.put(b"key %d" % (at % 3), b"%d/%d/%d" % (turn, number, at))
                    if at % 10 == number:
                        store.compact()

            threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seen = store.items()
        with DurableKV(OsFilesystem(), str(tmp_path / "store")) as store:
            assert store.items() == seen


def test_writers_share_their_syncs(tmp_path: Path) -> None:
    with DurableKV(OsFilesystem(), str(tmp_path / "store")) as store:

        def write(number: int) -> None:
            for turn in range(50):
                store.put(b"%d" % number, b"%d" % turn)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.items() == {b"%d" % number: b"49" for number in range(8)}
        assert store.log.stats().syncs < 400
