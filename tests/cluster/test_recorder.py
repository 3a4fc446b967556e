"""A recording: what is written is read back, bounded, and survives what happens to it."""

import errno
import os
import random
import re
import threading
from dataclasses import replace

import msgpack
import pytest

import cluster.recorder
import cluster.recording
from cluster.chunks import (
    EVENTS,
    FULL,
    ChunkHeader,
    changes_between,
    decode_header,
    encode_header,
    encode_record,
    entries,
    patched,
)
from cluster.exits import CommandError, Exit
from cluster.frames import EVENTS_MAX, Event
from cluster.recorder import FULL_EVERY, Recorder, Recording
from cluster.recording import chunk_paths, list_recordings
from node.metrics import plain

HEADER = ChunkHeader("1-99", "0" * 32, "deck", 1, 99, 1_000)
BOUND = 16 << 20


class Story:
    """Frames and events of a made-up cluster, handed to a recorder."""

    def __init__(self, frame, recorder):
        self.frame = replace(frame, events=())
        self.recorder = recorder
        self.frames = []
        self.events = []
        self.rng = random.Random(7)

    def event(self, kind, unix_ms):
        event = Event(len(self.events) + 1, unix_ms, "user", kind, 2, f"n2 {kind}", "exit -9")
        self.events.append(event)
        return event

    def tell(self, count, *, every=100, happens=()):
        """Record `count` frames; before those whose number is in `happens` an event."""
        for number in range(count):
            last = self.frames[-1] if self.frames else self.frame
            moment = last.unix_ms + every
            new = [self.event("killed", moment - 1)] if number in happens else []
            nodes = tuple(self.moved(part) for part in last.nodes)
            shown = tuple(self.events[-EVENTS_MAX:])
            frame = replace(
                last, sequence=last.sequence + 3, unix_ms=moment, nodes=nodes, events=shown
            )
            self.frames.append(frame)
            while not self.recorder.record(frame.encode(), new):
                threading.Event().wait(0.001)

    def moved(self, part):
        group = part.snapshot.groups[0]
        step = self.rng.randrange(50)
        group = replace(group, commit=group.commit + step, last=group.last + step)
        snapshot = replace(part.snapshot, groups=(group,), uptime_ns=part.snapshot.uptime_ns + 1)
        return replace(part, snapshot=snapshot, snapshot_age_ms=step)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "recording"


@pytest.fixture
def begin(healthy_frame, place):
    """Begin a recording in the place; `begin.end()` ends the last one."""
    stories = []

    def make(header=HEADER, bytes_max=BOUND):
        story = Story(healthy_frame, Recorder(place, header, bytes_max))
        stories.append(story)
        return story

    yield make
    for story in stories:
        story.recorder.close()


# --- there and back -------------------------------------------------------------------


def test_frames_and_events_come_back_as_they_were(begin, tmp_path, place):
    story = begin()
    story.tell(2 * FULL_EVERY + 7, happens={0, 3, 60})
    story.recorder.close()
    with Recording.open(tmp_path) as recording:
        assert list(recording.frames_since(0)) == story.frames
        assert recording.events() == tuple(story.events)
        assert recording.latest() == story.frames[-1]
        assert recording.span() == (story.frames[0].unix_ms, story.frames[-1].unix_ms)
        assert len(recording) == len(story.frames)
    for same in (place, chunk_paths(place)[0]):
        with Recording.open(same) as recording:
            assert len(recording) == len(story.frames)


def test_any_moment_is_found_at_once(begin, tmp_path):
    story = begin()
    story.tell(3 * FULL_EVERY, happens={20, 90})
    story.recorder.close()
    with Recording.open(tmp_path) as recording:
        order = list(range(len(story.frames)))
        random.Random(3).shuffle(order)
        for at in order[:60]:
            wanted = story.frames[at]
            assert recording.frame_at(wanted.unix_ms) == wanted
            assert recording.frame_at(wanted.unix_ms + 99) == wanted
        assert recording.frame_at(story.frames[0].unix_ms - 1) is None
        part = list(recording.frames(story.frames[5].unix_ms, story.frames[9].unix_ms))
        assert part == story.frames[5:10]
        assert list(recording.frames_since(story.frames[-3].sequence)) == story.frames[-2:]


def test_a_recording_is_read_while_it_is_written(begin, tmp_path, eventually):
    story = begin()
    story.tell(5)
    assert eventually(lambda: list_recordings(tmp_path))
    with Recording.open(tmp_path) as recording:
        for _ in range(3):
            story.tell(5, happens={1})
            last = story.frames[-1].sequence

            def caught_up(last=last):
                recording.refresh()
                frame = recording.latest()
                return frame is not None and frame.sequence == last

            assert eventually(caught_up)
        assert list(recording.frames_since(0)) == story.frames
        assert recording.events() == tuple(story.events)


def test_what_is_written_while_a_new_file_begins_is_not_missed(
    begin, tmp_path, monkeypatch, eventually
):
    """Between looking through the newest file and listing the directory."""
    story = begin(bytes_max=16 << 20)
    story.recorder._writer._chunk_bytes = 16 << 10
    story.tell(3)
    assert eventually(lambda: list_recordings(tmp_path))
    with Recording.open(tmp_path) as recording:
        real = cluster.recording._paths_at

        def while_listing(place):
            monkeypatch.setattr(cluster.recording, "_paths_at", real)
            while len(real(place)) < 2:
                story.tell(5)
            story.recorder.close()
            return real(place)

        monkeypatch.setattr(cluster.recording, "_paths_at", while_listing)
        recording.refresh()
        assert list(recording.frames_since(0)) == story.frames


# --- bounds ---------------------------------------------------------------------------


def test_the_oldest_goes_and_the_bound_holds(begin, tmp_path, place):
    """The bound is small: six files of 16 KiB, and of the last record what goes beyond."""
    story = begin(bytes_max=96 << 10)
    for _ in range(40):
        story.tell(20, happens={4})
        assert sum(map(cluster.recording._size, chunk_paths(place))) <= 98 << 10
    story.recorder.close()
    with Recording.open(tmp_path) as recording:
        kept = list(recording.frames_since(0))
        assert 100 < len(kept) < 800
        assert kept == story.frames[-len(kept) :]
        assert recording.events()[-1] == story.events[-1]
        for frame in kept[:: len(kept) // 5]:
            assert recording.frame_at(frame.unix_ms) == frame


def test_the_lives_of_a_cluster_share_the_bound_and_are_told_apart(begin, tmp_path):
    for life in range(1, 4):
        story = begin(replace(HEADER, run=f"{life}-99", started_unix_ms=life))
        story.tell(10 * life)
        story.recorder.close()
    assert [run.number for run in list_recordings(tmp_path)] == [1, 2, 3]
    for life in (1, 2, 3):
        with Recording.open(tmp_path, life) as recording:
            assert len(recording) == 10 * life
    with Recording.open(tmp_path) as newest:
        assert newest.header.run == "3-99"
    with pytest.raises(CommandError, match="no run 4; there are 3") as caught:
        Recording.open(tmp_path, 4)
    assert caught.value.exit_code is Exit.UNKNOWN


def test_files_that_a_ring_removes_are_still_read_by_who_has_them_open(begin, tmp_path, place):
    story = begin()
    story.tell(30)
    story.recorder.close()
    with Recording.open(tmp_path) as recording:
        for path in chunk_paths(place):
            path.unlink()
        assert list(recording.frames_since(0)) == story.frames
        recording.refresh()


# --- damage ---------------------------------------------------------------------------


def test_a_tail_is_cut_wherever_the_writer_was_killed(begin, tmp_path, place):
    story = begin()
    story.tell(12, happens={5})
    story.recorder.close()
    [path] = chunk_paths(place)
    whole = path.read_bytes()
    rng = random.Random(11)
    for size in (len(whole) - 1, *(rng.randrange(200, len(whole)) for _ in range(60))):
        path.write_bytes(whole[:size])
        with Recording(tmp_path) as recording:
            recording.refresh()
            kept = list(recording.frames_since(0))
            assert [frame.sequence for frame in kept] == [
                frame.sequence for frame in story.frames[: len(kept)]
            ]


def test_what_stands_behind_a_flipped_bit_in_a_file_is_not_believed(begin, tmp_path, place):
    story = begin()
    story.tell(12)
    story.recorder.close()
    [path] = chunk_paths(place)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 4
    path.write_bytes(whole)
    with Recording.open(tmp_path) as recording:
        kept = list(recording.frames_since(0))
        assert 0 < len(kept) < 12
        assert kept == story.frames[: len(kept)]


def test_a_file_whose_head_was_cut_is_passed_over(begin, tmp_path, place):
    story = begin()
    story.tell(3)
    story.recorder.close()
    (place / "00000099.rec").write_bytes(encode_header(HEADER)[:-1])
    (place / "00000100.rec").write_bytes(b"RDR")
    (place / "00000101.rec").write_bytes(b"")
    with Recording.open(tmp_path) as recording:
        assert list(recording.frames_since(0)) == story.frames


def test_a_newer_schema_is_refused_and_a_foreign_file_named(tmp_path, place, monkeypatch):
    place.mkdir()
    path = place / "00000001.rec"
    with monkeypatch.context() as patch:
        patch.setattr("cluster.chunks.RECORDING_SCHEMA", "raftdeck.recording/2")
        path.write_bytes(encode_header(HEADER))
    with pytest.raises(CommandError, match=r"newer than raftdeck\.recording/1") as caught:
        Recording.open(tmp_path)
    assert caught.value.exit_code is Exit.UNFIT
    path.write_bytes(b"#!/bin/sh\necho hello, this is no recording\n")
    with pytest.raises(CommandError, match=r"00000001\.rec: not a recording") as caught:
        Recording.open(tmp_path)
    assert caught.value.exit_code is Exit.USAGE


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(begin, tmp_path, place):
    older = begin(replace(HEADER, run="1-98"))
    older.tell(12)
    older.recorder.close()
    story = begin()
    story.tell(12)
    story.recorder.close()
    with Recording.open(tmp_path) as recording:
        assert recording.damage == ()
    _, second = chunk_paths(place)
    whole = second.read_bytes()
    second.write_bytes(whole[:-3])
    (place / "00000003.rec").write_bytes(b"garbage" * 1000)
    with Recording.open(tmp_path) as recording:
        assert list(recording.frames_since(0)) == story.frames[:-1]
        foreign, cut = recording.damage
        assert "00000003.rec: not a recording" in foreign
        [(offset, length)] = [(e.offset, e.length) for e in entries_of(whole)][-1:]
        told = rf"00000002\.rec: the record at byte {offset:,} .* {length - 3:,} bytes are not read"
        assert re.search(told, cut), cut
    assert [run.number for run in list_recordings(tmp_path)] == [1, 2]


def entries_of(whole):
    _, begin = decode_header(whole, "") or (None, 0)
    return list(entries(whole[begin:], begin))


def test_a_run_without_a_whole_frame_is_no_recording(tmp_path, place):
    place.mkdir()
    path = place / "00000001.rec"
    for rest, words in ((b"", "holds no whole frame"), (b"x" * 40, "40 bytes are not read")):
        path.write_bytes(encode_header(HEADER) + rest)
        with pytest.raises(CommandError, match=words) as caught:
            Recording.open(tmp_path)
        assert caught.value.exit_code is Exit.UNKNOWN


def test_where_nothing_is_recorded_that_is_said(tmp_path):
    with pytest.raises(CommandError, match="nothing is recorded") as caught:
        Recording.open(tmp_path)
    assert caught.value.exit_code is Exit.UNKNOWN


def test_a_bomb_is_not_unpacked_to_its_end(tmp_path, place):
    place.mkdir()
    bomb = encode_record(FULL, 1, 1, {"nodes": "x" * (64 << 20)})
    (place / "00000001.rec").write_bytes(encode_header(HEADER) + bomb)
    with Recording.open(tmp_path) as recording, pytest.raises(ValueError, match="incomplete"):
        recording.latest()


# --- a disk that fails ----------------------------------------------------------------


def test_a_failing_disk_is_counted_told_once_and_tried_again(
    begin, tmp_path, place, monkeypatch, eventually
):
    monkeypatch.setattr(cluster.recorder, "RETRY_S", 0.0)
    place.write_text("a file where the directory should be")
    story = begin()
    story.tell(5, happens={1})
    assert eventually(lambda: story.recorder.failures >= 5)
    assert not story.recorder.works
    assert "not recorded: File exists: " in story.recorder.news()
    assert story.recorder.news() is None
    place.unlink()
    story.tell(5)
    story.recorder.close()
    assert story.recorder.works
    assert story.recorder.news() == "recorded again: 5 frames are missing"
    with Recording.open(tmp_path) as recording:
        kept = list(recording.frames_since(0))
        assert [f.sequence for f in kept] == [f.sequence for f in story.frames[5:]]
        assert recording.events() == tuple(story.events), "an event that had to wait is not lost"


def test_a_disk_that_stays_full_costs_nothing_of_what_was_recorded_before(
    begin, tmp_path, place, monkeypatch
):
    monkeypatch.setattr(cluster.recorder, "RETRY_S", 0.0)
    monkeypatch.setattr(cluster.recorder, "FILES_MAX", 8)
    story = begin()
    story.tell(10)
    story.recorder.close()
    before = chunk_paths(place)

    def full(self, record):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))

    with monkeypatch.context() as patch:
        patch.setattr(cluster.recorder._Writer, "_append", full)
        again = begin(replace(HEADER, run="2-99"))
        again.tell(60)
        again.recorder.close()
    assert again.recorder.failures == 60
    assert chunk_paths(place) == before
    with Recording.open(tmp_path) as recording:
        assert list(recording.frames_since(0)) == story.frames


def test_a_disk_that_is_full_now_and_then_is_not_told_of_for_ever(begin, place, monkeypatch):
    monkeypatch.setattr(cluster.recorder, "RETRY_S", 0.0)
    real, turn = cluster.recorder._Writer._append, iter(range(10_000))

    def moody(self, record):
        if next(turn) % 3 == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
        real(self, record)

    monkeypatch.setattr(cluster.recorder._Writer, "_append", moody)
    story = begin()
    story.tell(200)
    story.recorder.close()
    assert story.recorder.failures > 50
    told = [words for _ in range(100) if (words := story.recorder.news())]
    about_the_disk = [words for words in told if "gaps in" not in words]
    assert len(about_the_disk) == cluster.recorder.NEWS_MAX


def test_a_disk_that_keeps_half_a_record_costs_no_other(begin, tmp_path, monkeypatch, eventually):
    monkeypatch.setattr(cluster.recorder, "RETRY_S", 0.0)
    story = begin()
    story.tell(3)
    assert eventually(
        lambda: story.recorder._writer._size > 0 and not story.recorder._queue.qsize()
    )
    real = os.fdopen
    writer = story.recorder._writer
    half, whole = writer._file, []

    class Half:
        def write(self, data):
            whole.append(data)
            return half.write(data[: len(data) // 2])

        def close(self):
            half.close()

    writer._file = Half()
    story.tell(4)
    story.recorder.close()
    assert len(whole) == 1
    assert real is os.fdopen
    assert "No space left" in story.recorder.news()
    with Recording.open(tmp_path) as recording:
        kept = [frame.sequence for frame in recording.frames_since(0)]
    assert kept == [frame.sequence for frame in story.frames[:3] + story.frames[4:]]


def test_a_disk_that_hangs_holds_nobody_up(begin, place, monkeypatch):
    monkeypatch.setattr(cluster.recorder, "CLOSE_S", 0.05)
    story = begin()
    gate = threading.Event()
    story.recorder._writer.write = lambda *_: gate.wait(20)
    frame = story.frame.encode()
    taken = [story.recorder.record(frame, ()) for _ in range(100)]
    assert not taken[-1]
    assert story.recorder.dropped > 0
    assert "the disk is too slow" in story.recorder.news()
    story.recorder.close()
    gate.set()


# --- differences ----------------------------------------------------------------------


def mutated(rng, value):
    if isinstance(value, dict) and rng.random() < 0.9:
        return {key: mutated(rng, inner) for key, inner in value.items()}
    if isinstance(value, list) and rng.random() < 0.9:
        return [mutated(rng, inner) for inner in value[: rng.randrange(2, 5)]]
    choices = [value] * 6 + [rng.randrange(9), "x", None, True, 1.0, [1, 2], [{"a": 1}], {}]
    return rng.choice(choices)


def test_a_patched_document_is_the_new_one_whatever_changed():
    old = {"a": 1, "b": {"c": [1, 2], "d": {"e": None}}, "f": [{"g": 1, "h": []}, {"g": 2}], "i": 0}
    for seed in range(500):
        rng = random.Random(seed)
        new = {key: mutated(rng, value) for key, value in old.items()}
        changes = changes_between(old, new)
        assert changes is not None
        over = msgpack.unpackb(msgpack.packb(changes), strict_map_key=False)
        assert patched(old, over) == new, seed
    assert changes_between(old, old) == {}
    assert changes_between(old, {"a": 1}) is None
    assert changes_between({"a": 1}, {"a": True}) == {0: True}, "equal, and not the same"


def test_records_are_found_one_behind_the_other():
    event = Event(1, 5, "user", "killed", 2, "n2 killed")
    data = encode_record(FULL, 7, 1, {"a": 1}) + encode_record(EVENTS, 5, 1, [plain(event)])
    first, second = entries(data + b"\0" * 30, 100)
    assert (first.kind, first.unix_ms, first.sequence, first.offset) == (FULL, 7, 1, 100)
    assert second.offset == 100 + first.length
    assert first.length + second.length == len(data)
