"""One damaged byte, at every place: a torn tail is told from corruption (ARCHITECTURE §5)."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator

import pytest

from tests.wal.crashfs import CrashFilesystem
from tests.wal.support import DIRECTORY, IDENTITY, batch, fill_segments, open_log, spans, wal_names
from tests.wal.test_failures import step_log
from wal import CorruptLogError, hard_state_record, recover
from wal.frame import FRAME_BYTES_MIN
from wal.reader import Frame, Stop, read_frames

FIRST = f"{DIRECTORY}/00000001.wal"
SEALED = f"{DIRECTORY}/SEALED"


def frames(fs: CrashFilesystem, number: int = 1) -> list[Frame]:
    file = fs.open_read(f"{DIRECTORY}/{number:08d}.wal")
    found = list(read_frames(file, number, Stop()))
    file.close()
    return found


def small_log() -> CrashFilesystem:
    """Ten frames in five flush groups; the last group holds three."""
    fs = CrashFilesystem()
    log, driver = step_log(fs)
    log.append([hard_state_record(0, 3, 2), batch(1, 2, size=31)], context=1)
    assert driver.pump()
    log.append([batch(3, size=50)], context=2)
    assert driver.pump()
    log.append([batch(4, size=7), batch(5, size=0)], context=3)
    log.append([batch(6, size=20)], context=4)
    assert driver.pump()
    fs.kill()
    assert [frame.prefix.durable_pos for frame in frames(fs)][-3:] == [frames(fs)[-3].position] * 3
    return fs


def flips(end: int, start: int = 0) -> Iterator[tuple[int, int]]:
    rng = random.Random(start)
    for offset in range(start, end):
        for mask in {0x01, 0x80, rng.randrange(1, 256)}:
            yield offset, mask


def test_a_flip_before_the_last_flush_is_corruption_and_is_located() -> None:
    fs = small_log()
    starts = [frame.position & 0xFFFF_FFFF for frame in frames(fs)]
    last_flush = frames(fs)[-1].prefix.durable_pos & 0xFFFF_FFFF
    for offset, mask in flips(last_flush):
        fs.flip(FIRST, offset, mask)
        with pytest.raises(CorruptLogError) as caught:
            recover(fs, DIRECTORY, IDENTITY)
        damaged = starts[bisect_right(starts, offset) - 1]
        assert caught.value.position == 1 << 32 | damaged, (offset, mask)
        evidence = caught.value.evidence
        assert evidence is not None
        assert evidence & 0xFFFF_FFFF > damaged
        fs.flip(FIRST, offset, mask)


def test_a_flip_in_the_last_flush_is_a_torn_tail_and_is_located() -> None:
    fs = small_log()
    whole = recover(fs, DIRECTORY, IDENTITY)
    assert whole.torn is None
    starts = [frame.position & 0xFFFF_FFFF for frame in frames(fs)]
    last_flush = frames(fs)[-1].prefix.durable_pos & 0xFFFF_FFFF
    for offset, mask in flips(whole.end & 0xFFFF_FFFF, last_flush):
        fs.flip(FIRST, offset, mask)
        found = recover(fs, DIRECTORY, IDENTITY)
        damaged = 1 << 32 | starts[bisect_right(starts, offset) - 1]
        assert found.torn is not None, (offset, mask)
        assert found.torn.position == found.end == damaged
        acknowledged = [ref for ref in whole.groups[0].batches if ref.position < damaged]
        assert list(found.groups[0].batches) == acknowledged
        assert len(acknowledged) >= 2
        fs.flip(FIRST, offset, mask)


def test_a_flip_under_an_open_log_is_never_served() -> None:
    """Whatever byte of the segment turns over: a batch is read as it was written, or not at all."""
    fs = small_log()
    log, found = open_log(fs)
    refs = list(found.groups[0].batches)
    written = {ref.position: log.read(0, ref) for ref in refs}
    assert len(refs) == 5
    end = found.end & 0xFFFF_FFFF
    starts = [ref.position & 0xFFFF_FFFF for ref in refs]
    for offset, mask in flips(end):
        fs.flip(FIRST, offset, mask)
        refused = 0
        for ref in refs:
            try:
                assert log.read(0, ref) == written[ref.position], (offset, mask)
            except CorruptLogError:
                refused += 1
        place = bisect_right(starts, offset) - 1
        inside = place >= 0 and offset < starts[place] + FRAME_BYTES_MIN + refs[place].size
        assert refused == inside, (offset, mask)
        fs.flip(FIRST, offset, mask)
    log.abort()


def test_a_torn_tail_is_cut_before_anything_is_appended() -> None:
    fs = small_log()
    for frame in frames(fs)[-3:]:
        copy = CrashFilesystem()
        copy.put(FIRST, fs.read(FIRST))
        copy.flip(FIRST, (frame.position & 0xFFFF_FFFF) + 97)
        log, found = open_log(copy)
        following = found.groups[0].batches[-1].last_index + 1
        log.append([batch(following, term=9)])
        log.abort()
        _, found = open_log(copy)
        assert spans(found)[-1] == (9, following, following)
        assert found.torn is None


def test_after_a_clean_stop_a_flip_at_any_byte_is_corruption() -> None:
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    log.append([hard_state_record(0, 3, 2), batch(1, 2, size=31)])
    log.append([batch(3, size=50)])
    assert log.seal_and_close()
    found = recover(fs, DIRECTORY, IDENTITY)
    assert found.sealed
    starts = [frame.position & 0xFFFF_FFFF for frame in frames(fs)]
    for offset, mask in flips(found.end & 0xFFFF_FFFF):
        fs.flip(FIRST, offset, mask)
        with pytest.raises(CorruptLogError) as caught:
            recover(fs, DIRECTORY, IDENTITY)
        damaged = starts[bisect_right(starts, offset) - 1]
        assert caught.value.position == 1 << 32 | damaged, (offset, mask)
        fs.flip(FIRST, offset, mask)
    for offset, mask in flips(len(fs.read(SEALED))):
        fs.flip(SEALED, offset, mask)
        with pytest.raises(CorruptLogError, match="SEALED of the clean stop is damaged"):
            recover(fs, DIRECTORY, IDENTITY)
        fs.flip(SEALED, offset, mask)
    assert recover(fs, DIRECTORY, IDENTITY).sealed, "every flip was taken back"


def test_after_a_clean_stop_nothing_may_be_missing() -> None:
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    fill_segments(log, 1, 9)
    assert log.seal_and_close()
    pristine = {name: fs.read(f"{DIRECTORY}/{name}") for name in wal_names(fs)}
    assert sorted(pristine) == ["00000001.wal", "00000002.wal", "SEALED"]
    end = recover(fs, DIRECTORY).end & 0xFFFF_FFFF

    def refused_with(changed: dict[str, bytes | None]) -> str:
        copy = CrashFilesystem()
        for name, content in {**pristine, **changed}.items():
            if content is not None:
                copy.put(f"{DIRECTORY}/{name}", content)
        with pytest.raises(CorruptLogError) as caught:
            recover(copy, DIRECTORY)
        return caught.value.reason

    newest = pristine["00000002.wal"]
    assert refused_with({"00000002.wal": None}) == (
        "00000002.wal is missing; the log was stopped cleanly"
    )
    assert "is missing" in refused_with({"00000001.wal": None, "00000002.wal": None})
    assert "stopped cleanly" in refused_with({"00000002.wal": b""})
    for cut_off in (1, 96):
        reason = refused_with({"00000002.wal": newest[: end - cut_off]})
        assert reason == "end of file; the log was stopped cleanly"
    assert "behind the end" in refused_with({"00000003.wal": b""})
    assert "damaged" in refused_with({"SEALED": b""})
    assert "damaged" in refused_with({"SEALED": pristine["SEALED"] + b"\0"})


def test_a_flip_in_an_older_segment_is_corruption_wherever_it_is() -> None:
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    fill_segments(log, 1, 20)
    log.abort()
    rng = random.Random(5)
    for number in (1, 2):
        path = f"{DIRECTORY}/{number:08d}.wal"
        starts = [frame.position & 0xFFFF_FFFF for frame in frames(fs, number)]
        end = starts[-1] + 8104
        for offset in [*range(100), *range(end - 120, end), *rng.sample(range(end), 100)]:
            fs.flip(path, offset)
            with pytest.raises(CorruptLogError) as caught:
                recover(fs, DIRECTORY, IDENTITY)
            damaged = starts[bisect_right(starts, offset) - 1]
            assert caught.value.position == number << 32 | damaged, (number, offset)
            fs.flip(path, offset)


def test_a_flip_in_the_blocks_behind_the_end_harms_nothing() -> None:
    fs = small_log()
    whole = recover(fs, DIRECTORY, IDENTITY)
    end = whole.end & 0xFFFF_FFFF
    for offset in (end, end + 8, end + 200, len(fs.read(FIRST)) - 1):
        fs.flip(FIRST, offset)
        assert recover(fs, DIRECTORY, IDENTITY).groups == whole.groups
        fs.flip(FIRST, offset)


def test_the_error_says_what_where_and_what_to_do() -> None:
    fs = small_log()
    frame = frames(fs)[3]
    offset = frame.position & 0xFFFF_FFFF
    fs.flip(FIRST, offset + 97)
    with pytest.raises(CorruptLogError) as caught:
        recover(fs, DIRECTORY, IDENTITY)
    error = caught.value
    assert error.cause is not None
    assert error.cause.stored == frame.header.payload_crc
    assert error.cause.computed not in (None, frame.header.payload_crc)
    assert str(error) == (
        f"/log: segment 00000001.wal, byte {offset}: body CRC (stored {error.cause.stored:08x},"
        f" computed {error.cause.computed:08x}); proved durable by segment 00000001.wal, byte"
        f" {(error.evidence or 0) & 0xFFFFFFFF}; the log is left as it is; run"
        ' "raftdeck wal verify /log"'
    )
