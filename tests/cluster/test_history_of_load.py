"""What a load writes down of itself, without a cluster: values by digest, and a stream that fails."""

import errno
import io
import json

import pytest

from cluster.client_types import DefiniteError, GetResult, IndefiniteError, KeyValue
from cluster.load_history import LoadHistory
from node.commands import OutcomeCode
from node.ports import Outcome


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()[1:]]


def test_a_value_is_told_alike_by_who_writes_it_and_who_reads_it() -> None:
    stream = io.StringIO()
    history = LoadHistory(stream)
    writer = history.write(b"k", b"\xff" * 1000)
    history.answered(writer, Outcome(OutcomeCode.OK, 7))
    reader = history.read(b"k")
    history.answered(reader, GetResult(7, KeyValue(b"k", b"\xff" * 1000, 7, 7, 1)))
    _, wrote, _, read = lines(stream)
    assert wrote["value"] == read["value"]
    assert len(read["value"]) == 16
    assert wrote["position"] == read["position"] == 7


@pytest.mark.parametrize(
    ("answer", "type_"), [(DefiniteError("no"), "fail"), (IndefiniteError("perhaps"), "info")]
)
def test_what_certainly_did_not_happen_differs_from_what_may_have(answer, type_: str) -> None:
    stream = io.StringIO()
    history = LoadHistory(stream)
    history.bulk_answered([history.write(b"a", b"1"), history.write(b"b", b"2")], answer)
    assert [line["type"] for line in lines(stream)] == ["invoke", "invoke", type_, type_]


def test_two_runs_have_keys_of_their_own() -> None:
    assert LoadHistory(io.StringIO()).prefix != LoadHistory(io.StringIO()).prefix


class FullDisk(io.StringIO):
    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_a_full_disk_ends_the_recording_and_not_the_load() -> None:
    stream = FullDisk()
    history = LoadHistory(stream)
    under_way = history.write(b"k", b"1")
    stream.full = True
    history.answered(under_way, Outcome(OutcomeCode.OK, 1))
    assert history.failure is not None
    assert history.failure.errno == errno.ENOSPC
    assert history.write(b"k", b"2") == history.read(b"k") == -1
    history.answered(-1, Outcome(OutcomeCode.OK, 2))
    assert [line["type"] for line in lines(stream)] == ["invoke"]
    history.close()
    assert stream.closed
