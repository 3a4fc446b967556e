"""Reading histories: four formats say the same, odd ones are read, bad ones name their line."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.check.edn import read_forms, read_words
from cluster.check.exports import EXPORTS, edn, export_history
from cluster.check.formats import Format, read_history, sniff
from cluster.check.history import HistoryError, Status
from cluster.check.sample import SampleSpec, sample_history
from cluster.check.values import Keyword, Table, freeze, thaw

LOG = """
INFO  jepsen.util - 0\t:invoke\t:read\tnil
INFO  jepsen.util - 1\t:invoke\t:write\t3
INFO  jepsen.util - 0\t:ok\t:read\tnil
INFO  jepsen.core - nothing that is an event
INFO  jepsen.util - 1\t:info\t:write\t:timed-out
INFO  jepsen.util - :nemesis\t:info\t:start\tnil
INFO  jepsen.util - 0\t:invoke\t:cas\t[3 4]
INFO  jepsen.util - 0\t:fail\t:cas\t[3 4]
INFO  jepsen.util - 6\t:invoke\t:read\tnil
"""
EDN = """
{:process 0, :type :invoke, :f :read, :value nil}
{:process 1, :type :invoke, :f :write, :value 3}
{:process 0, :type :ok, :f :read, :value nil}
{:process 1, :type :info, :f :write, :value 3, :error :timed-out}
{:process :nemesis, :type :info, :f :start, :value nil}
{:process 0, :type :invoke, :f :cas, :value [3 4]}
{:process 0, :type :fail, :f :cas, :value [3 4]}
{:process 6, :type :invoke, :f :read, :value nil}
"""


def shape(history):
    return [
        (op.process, op.f, op.key, op.argument, op.result, op.status, op.call, op.ret)
        for op in history.operations
    ]


def read(text):
    return read_history(text.encode())


def test_a_log_and_edn_say_the_same():
    assert shape(read(LOG)) == shape(read(EDN))
    assert [op.status for op in read(LOG).operations] == [
        Status.OK, Status.INFO, Status.FAIL, Status.INFO,
    ]  # fmt: skip
    assert len(read(LOG).nemesis) == 1


def test_a_vector_of_tagged_maps_is_read_as_maps_in_lines():
    vector = "[" + EDN.replace("{", "#jepsen.history.Op{") + "]\n; the end"
    assert shape(read(vector)) == shape(read(EDN))


def test_json_lines_and_a_json_array_say_the_same_as_edn():
    documents = [
        {"process": process, "type": type_, "f": f, "value": value}
        for process, type_, f, value in (
            (0, "invoke", "read", None), (1, "invoke", "write", 3), (0, "ok", "read", None),
            (1, "info", "write", 3), ("nemesis", "info", "start", None),
            (0, "invoke", "cas", [3, 4]), (0, "fail", "cas", [3, 4]),
            (6, "invoke", "read", None),
        )
    ]  # fmt: skip
    lines = "\n".join(json.dumps(document) for document in documents)
    header = json.dumps({"schema": "raftdeck.history/1", "model": "register"})
    assert shape(read(f"{header}\n\n{lines}\n")) == shape(read(EDN))
    assert shape(read(json.dumps(documents))) == shape(read(EDN))
    assert shape(read(json.dumps(documents, indent=1))) == shape(read(EDN))


@pytest.mark.parametrize(
    "text",
    [
        LOG.replace("\t", "   "),
        LOG.replace("INFO  jepsen.util - ", ""),
        LOG.replace("INFO  jepsen.util - ", "2026-01-02 03:04:05,678 INFO [worker 1] jepsen.util - "),
        LOG.replace("\n", "\r\n"),
        LOG.replace("[3 4]", "[3, 4]"),
        "\ufeff" + LOG,
        LOG.replace(":read\tnil", ":read"),
    ],
    ids=["spaces", "bare", "timestamps", "crlf", "commas", "byte-order-mark", "no-nil"],
)  # fmt: skip
def test_a_log_may_be_spaced_oddly(text):
    assert shape(read(text)) == shape(read(LOG))


def test_a_process_that_begins_anew_has_given_its_operation_up(log):
    history = log(
        """
        4 :invoke :write 1
        4 :invoke :write 2
        4 :ok :write 2
        4 :invoke :read
        4 :info :read :timed-out
        4 :invoke :read
        4 :ok :read 1
        """
    )
    assert [op.status.value for op in history.operations] == ["info", "ok", "info", "ok"]
    assert "gave up" in history.warnings[0]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 0, "empty"),
        ("no event\nat all\n", 1, "no event here"),
        ("0 :invoke :read\n0 :ok :write 1\n", 2, "had begun 'read'"),
        ("0 :ok :read 1\n", 1, "has not begun"),
        ("0 :invoke :write [1\n", 1, "never closed"),
        ("{:process 0, :type :invoke, :f :read}\n{:process 0, :type :done, :f :read}", 2, "done"),
        ("{:process 0, :type :invoke}\n", 1, "'f'"),
        ("{:type :invoke, :f :read}\n", 1, "process"),
        ("{:process 0, :type :invoke, :f :read\n", 1, "never closed"),
        ("\n\n{:process 0 :type :invoke :f :read :value 1x}", 3, "1x"),
        ("{:a}", 1, "no value"),
        ("{:process 0, :type :invoke, :f :r}}", 1, "closes nothing"),
        ("[1 2]", 1, "no event"),
        ('{"process": 0, "type": "invoke", "f": "read"}\n{"process": 0,', 2, "no JSON"),
        ('{"process": 0, "type": "invoke", "f": "read"}\n7', 2, "no event"),
        ('{"schema": "raftdeck.history/9"}', 1, "raftdeck.history/1"),
        ('{"process": 0, "type": "invoke", "f": "r", "time": "x"}', 1, "whole number"),
        ('{"ClientId": 1}', 1, "Call"),
        (
            ('{"process": 0, "type": "invoke", "f": "read", "key": "a"}\n'
            '{"process": 0, "type": "ok", "f": "read", "key": "b"}'),
            2, "does one thing at a time",
        ),
        ("{:process :nemesis, :type :info, :f :start}", 0, "no operation"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_names_its_line(text, line, words):
    with pytest.raises(HistoryError, match=words.replace("[", r"\[")) as caught:
        read(text)
    assert caught.value.line == line


def test_bytes_that_are_no_text_name_their_line():
    with pytest.raises(HistoryError, match="line 2"):
        read_history(b"0 :invoke :read\n\xff\xfe")


def merged(*clients):
    """Put the files of clients together: `(type, f, value, time)` each."""
    lines = [
        json.dumps({"process": p, "type": type_, "f": f, "value": value, "time": time})
        for p, events in enumerate(clients)
        for type_, f, value, time in events
    ]
    return read("\n".join(lines)).operations


WRITER = [("invoke", "write", 1, 1), ("ok", "write", 1, 5)]
READER = [("invoke", "read", None, 5), ("ok", "read", None, 5)]


def test_what_has_the_same_time_in_files_put_together_overlaps():
    """Whoever comes first in the file: a clock of milliseconds says nothing of what is within one."""
    for clients in ([WRITER, READER, WRITER], [READER, WRITER, WRITER]):
        for one in merged(*clients):
            assert all(one.call < other.ret for other in merged(*clients))


def test_a_process_keeps_its_own_order_whatever_its_clock_says():
    twice = [*READER, *READER]
    ops = [[op for op in merged(twice, WRITER, READER) if op.process == n] for n in range(3)]
    assert [op.status.value for op in ops[0]] == ["ok", "ok"]
    assert ops[0][0].ret < ops[0][1].call
    assert ops[1][0].call < ops[0][0].ret
    assert ops[2][0].call < ops[0][0].ret
    assert ops[2][0].ret > ops[0][1].call, "it has nothing more to do, and may have overlapped both"


def test_events_out_of_order_are_sorted_by_time():
    lines = [
        '{"process": 1, "type": "invoke", "f": "write", "value": 1, "time": 30}',
        '{"process": 1, "type": "ok", "f": "write", "value": 1, "time": 40}',
        '{"process": 2, "type": "invoke", "f": "read", "time": 10}',
        '{"process": 2, "type": "ok", "f": "read", "value": null, "time": 30}',
    ]
    first, second = read("\n".join(lines)).operations
    assert (first.process, first.call, first.ret) == (2, 0, 2)
    assert (second.process, second.call) == (1, 1)


def test_an_index_goes_before_times():
    """Jepsen takes the time first and the number second: numbers are the order."""
    text = """
        {:index 2, :time 8, :process 1, :type :ok, :f :read, :value nil}
        {:index 0, :time 5, :process 0, :type :invoke, :f :write, :value 1}
        {:index 1, :time 9, :process 1, :type :invoke, :f :read}
        {:index 3, :time 7, :process 0, :type :ok, :f :write, :value 1}
        """
    write, look = read(text).operations
    assert (write.call, write.ret, look.call, look.ret) == (0, 3, 1, 2)


def test_whoever_has_a_name_instead_of_a_number_is_no_client_in_jepsen():
    text = EDN + "{:process :admin, :type :invoke, :f :compact}\n"
    assert shape(read(text)) == shape(read(EDN))
    assert shape(read(LOG + "INFO jepsen.util - :admin :info :compact nil")) == shape(read(LOG))


def test_porcupine_operations_that_touch_overlap_and_each_is_its_own_process():
    lines = [
        {"ClientId": 7, "Input": {"f": "write", "value": 1}, "Call": 5, "Return": 9,
         "Output": {"value": 1}},
        {"ClientId": 7, "Input": {"f": "read"}, "Call": 9, "Return": 12, "Output": {"value": 1}},
        {"ClientId": 7, "Input": {"f": "write", "value": 2}, "Call": 10, "Return": 0,
         "Output": None},
    ]  # fmt: skip
    one, two, three = read("\n".join(json.dumps(line) for line in lines)).operations
    assert two.call < one.ret
    assert three.status is Status.INFO


@pytest.mark.parametrize("kind", ["register", "kv-append"])
@pytest.mark.parametrize("format_", EXPORTS)
def test_what_is_exported_is_read_back_as_it_was(format_, kind):
    history = sample_history(SampleSpec(80, keys=3, kind=kind, crash_percent=10, seed=3))
    stream = io.StringIO()
    count = export_history(history, format_, stream, kind)
    assert stream.getvalue().count("\n") == count
    back = read(stream.getvalue())
    if format_ == "porcupine":
        assert [s[1:6] for s in shape(back)] == [s[1:6] for s in shape(history)]
    elif format_ == "jsonl":
        assert shape(back) == shape(history)
        assert [op.position for op in back.operations] == [op.position for op in history.operations]
    else:  # Jepsen has no keys: its values are [key value]
        expected = [
            (p, f, None, (key, argument), (key, result) if status is not Status.INFO else None,
             status, call, ret)
            for p, f, key, argument, result, status, call, ret in shape(history)
        ]  # fmt: skip
        assert shape(back) == expected


def test_an_open_operation_is_exported_as_returning_behind_all_others():
    text = "0 :invoke :write 1\n0 :info :write\n1 :invoke :read\n1 :ok :read 1\n"
    stream = io.StringIO()
    export_history(read(text), "porcupine", stream, "register")
    write, look = map(json.loads, stream.getvalue().splitlines())
    assert (write["Return"], write["Output"]) == (2**63 - 1, {"unknown": True})
    assert (look["Call"], look["Return"]) == (2, 3)


def test_transactions_are_exported_with_the_words_that_elle_knows():
    text = "{:process 0, :type :invoke, :f :txn, :value [[:append :x 1] [:r :y nil]]}\n"
    history = read(text)
    stream = io.StringIO()
    export_history(history, "edn", stream, "list-append")
    assert ":value [[:append :x 1] [:r :y nil]]" in stream.getvalue()
    stream = io.StringIO()
    export_history(history, "elle", stream, "list-append")
    (event,) = json.loads(stream.getvalue())
    assert event["value"] == [["append", "x", 1], ["r", "y", None]]


@pytest.mark.parametrize(
    ("text", "format_"),
    [
        ('{"process": 0}', Format.JSON),
        ('[ {"process": 0}]', Format.JSON),
        ("{:process 0}", Format.EDN),
        ("; a comment\n{:process 0}", Format.EDN),
        ("#jepsen.history.Op{:process 0}", Format.EDN),
        ("INFO jepsen.util - 0 :invoke :read nil", Format.LOG),
    ],
)
def test_a_text_says_which_format_it_is_in(text, format_):
    assert sniff(text) is format_


# ---- EDN -----------------------------------------------------------------------------------------


def test_edn_has_all_of_these():
    text = r'nil true -4 7N 2.5 1e3 3M "a\"\\\né" \newline \a \é :key/word sym [1 [2]] (1) #{1} {:a {}}'
    assert read_words(text) == [
        None, True, -4, 7, 2.5, 1000.0, 3, 'a"\\\né', "\n", "a", "é", "key/word", "sym",
        (1, (2,)), (1,), frozenset({1}), Table({"a": Table()}),
    ]  # fmt: skip
    assert isinstance(read_words(":a")[0], Keyword)


def test_edn_discards_what_is_marked_and_drops_tags():
    assert read_words('#_ 1 2 #_ #_ 3 4 5 [#_ 6] #inst "2026" #_ #x {:a 1} ; 7') == [
        2,
        5,
        (),
        "2026",
    ]


def test_edn_knows_the_line_of_each_value():
    forms = list(read_forms('[{:a "x\ny"}\n\n{:b 1}]\n{:c 2}'))
    assert [form.line for form in forms] == [1, 4, 5]


def test_edn_is_not_nested_without_end():
    with pytest.raises(HistoryError, match="brackets"):
        read_words("[" * 100_000)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(VALUES)
def test_a_value_survives_edn_and_json(value):
    frozen = freeze(value)
    hash(frozen)
    assert read_words(edn(frozen)) == [frozen]
    assert freeze(json.loads(json.dumps(thaw(frozen)))) == frozen


@given(st.binary(max_size=12))
def test_bytes_survive_json(value):
    back = freeze(json.loads(json.dumps(thaw(value))))
    assert back == value or (isinstance(back, str) and back.encode() == value)


@given(st.text(alphabet='{}[]()#_:;"\\ \n,abc019.+-\t', max_size=60))
def test_any_text_is_read_or_refused_with_its_line(text):
    line = 0
    try:
        read(text)
    except HistoryError as error:
        line = error.line
    assert 0 <= line <= text.count("\n") + 1
