"""Sets, queues, counters, banks: each failure in its smallest form, and what only looks like one."""

import random

import pytest

from cluster.check.bank import check_bank
from cluster.check.budget import Budget
from cluster.check.counters import check_counter
from cluster.check.formats import read_history
from cluster.check.history import EventType, HistoryError, Status, build_history
from cluster.check.judge import Rules, judge
from cluster.check.models import ILLEGAL, Model
from cluster.check.queues import check_queue
from cluster.check.sample import SampleSpec, sample_events
from cluster.check.sets import check_set
from cluster.check.verdict import Finding, Verdict, worst
from tests.check.brute_force import is_linearizable as has_order

SETS = {
    "empty": ("0 :invoke :read\n0 :ok :read []", "pass"),
    "added-then-read": ("0 :invoke :add 1\n0 :ok :add 1\n0 :invoke :read\n0 :ok :read [1]", "pass"),
    "lost": ("0 :invoke :add 1\n0 :ok :add 1\n0 :invoke :read\n0 :ok :read []", "fail"),
    "not-lost-if-unknown": (
        "0 :invoke :add 1\n0 :info :add 1\n1 :invoke :read\n1 :ok :read []", "pass"),
    "an-unknown-add-may-come-late": (
        ("0 :invoke :add 1\n0 :info :add 1\n1 :invoke :read\n1 :ok :read []\n"
        "1 :invoke :read\n1 :ok :read [1]"), "pass"),
    "refused-and-seen": (
        "0 :invoke :add 1\n0 :fail :add 1\n0 :invoke :read\n0 :ok :read [1]", "fail"),
    "never-added": ("0 :invoke :read\n0 :ok :read [7]", "fail"),
    "seen-before-it-began": (
        "0 :invoke :read\n0 :ok :read [1]\n1 :invoke :add 1\n1 :ok :add 1", "fail"),
    "seen-while-it-began": (
        "0 :invoke :read\n1 :invoke :add 1\n0 :ok :read [1]\n1 :ok :add 1", "pass"),
    "gone-again": (
        ("0 :invoke :add 1\n1 :invoke :read\n1 :ok :read [1]\n1 :invoke :read\n1 :ok :read []\n"
        "0 :ok :add 1\n1 :invoke :read\n1 :ok :read [1]"), "fail"),
    "gone-again-only-in-an-overlapping-read": (
        ("0 :invoke :add 1\n1 :invoke :read\n2 :invoke :read\n1 :ok :read [1]\n2 :ok :read []\n"
        "0 :ok :add 1"), "pass"),
    "stale": (
        ("0 :invoke :add 1\n0 :ok :add 1\n1 :invoke :read\n1 :ok :read []\n"
        "1 :invoke :read\n1 :ok :read [1]"), "fail"),
    "no-chain": (
        ("0 :invoke :add 1\n1 :invoke :add 2\n2 :invoke :read\n3 :invoke :read\n2 :ok :read [1]\n"
        "3 :ok :read [2]\n0 :ok :add 1\n1 :ok :add 2"), "fail"),
    "a-chain": (
        ("0 :invoke :add 1\n1 :invoke :add 2\n2 :invoke :read\n3 :invoke :read\n2 :ok :read [1]\n"
        "3 :ok :read [1 2]\n0 :ok :add 1\n1 :ok :add 2"), "pass"),
    "twice-in-one-read": (
        "0 :invoke :add 1\n0 :ok :add 1\n0 :invoke :read\n0 :ok :read [1 1]", "fail"),
    "nothing-read": ("0 :invoke :add 1\n0 :ok :add 1\n0 :invoke :read\n0 :info :read", "unknown"),
    "there-since-the-first-of-two-adds": (
        (
            "0 :invoke :add 1\n0 :ok :add 1\n1 :invoke :read\n1 :ok :read []\n"
            "0 :invoke :add 1\n0 :ok :add 1\n1 :invoke :read\n1 :ok :read [1]"
        ),
        "fail",
    ),
    "a-set-literal": ("0 :invoke :add 1\n0 :ok :add 1\n0 :invoke :read\n0 :ok :read #{1}", "pass"),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_a_set(log, name):
    text, verdict = SETS[name]
    assert check_set(log(text)).verdict.value == verdict


class _SetModel(Model):
    """A set for the slow oracle."""

    name = "set"
    functions = ("add", "read")
    initial: frozenset[object] = frozenset()

    @classmethod
    def translate(cls, operation):
        if operation.f == "add":
            return ("add", operation.argument)
        return ("read", frozenset(operation.result)) if operation.status is Status.OK else None

    def step(self, state, action):
        if action[0] == "add":
            return state | {action[1]}
        return state if state == action[1] else ILLEGAL

    @staticmethod
    def looks(action):
        return action[0] == "read"


def test_the_judge_of_sets_agrees_with_the_definition():
    """Registers that are only written become sets; what one read saw is then changed."""
    stream = random.Random(1)
    verdicts = []
    for seed in range(400):
        spec = SampleSpec(8, processes=3, kind="unique", crash_percent=15, seed=seed)
        elements: list[object] = []
        events = []
        for event in sample_events(spec):
            value = event.value
            if event.f == "write":
                if event.type is EventType.INVOKE:
                    elements.append(event.value)
                events.append(event._replace(f="add", key=None))
            else:
                if event.type is EventType.OK:
                    value = tuple(stream.sample(elements, stream.randint(0, len(elements))))
                    if stream.random() < 0.7:
                        value = tuple(elements[: stream.randint(0, len(elements))])
                events.append(event._replace(value=value, key=None))
        history = build_history(events)
        finding = check_set(history)
        if finding.verdict is Verdict.UNKNOWN:
            continue
        expected = has_order(history.operations, _SetModel)
        assert (finding.verdict is Verdict.PASS) == expected, (seed, finding)
        verdicts.append(expected)
    assert min(verdicts.count(True), verdicts.count(False)) > 30


QUEUES = {
    "in-and-out": ("0 :invoke :enqueue 1\n0 :ok :enqueue 1\n0 :invoke :dequeue\n0 :ok :dequeue 1", "pass"),
    "lost": (
        "0 :invoke :enqueue 1\n0 :ok :enqueue 1\n0 :invoke :dequeue\n0 :fail :dequeue", "fail"),
    "lost-in-a-drain": (
        "0 :invoke :enqueue 1\n0 :ok :enqueue 1\n0 :invoke :drain\n0 :ok :drain []", "fail"),
    "left-in-it": ("0 :invoke :enqueue 1\n0 :ok :enqueue 1", "unknown"),
    "perhaps-taken": (
        ("0 :invoke :enqueue 1\n0 :ok :enqueue 1\n1 :invoke :dequeue\n1 :info :dequeue\n"
        "0 :invoke :drain\n0 :ok :drain []"), "unknown"),
    "twice": (
        "0 :invoke :enqueue 1\n0 :ok :enqueue 1\n0 :invoke :drain\n0 :ok :drain [1 1]", "fail"),
    "twice-in-and-twice-out": (
        ("0 :invoke :enqueue 1\n0 :ok :enqueue 1\n0 :invoke :enqueue 1\n0 :info :enqueue 1\n"
        "1 :invoke :drain\n1 :ok :drain [1 1]"), "pass"),
    "never-in": ("0 :invoke :dequeue\n0 :ok :dequeue 4", "fail"),
    "refused-and-out": (
        "0 :invoke :enqueue 1\n0 :fail :enqueue 1\n0 :invoke :dequeue\n0 :ok :dequeue 1", "fail"),
    "unknown-and-out": (
        "0 :invoke :enqueue 1\n0 :info :enqueue 1\n1 :invoke :dequeue\n1 :ok :dequeue 1", "pass"),
    "a-crashed-drain-may-have-taken-all": (
        ("0 :invoke :enqueue 1\n0 :ok :enqueue 1\n0 :invoke :enqueue 2\n0 :ok :enqueue 2\n"
        "1 :invoke :drain\n1 :info :drain\n0 :invoke :drain\n0 :ok :drain []"), "unknown"),
    "a-taker-that-came-later-took-nothing": (
        ("0 :invoke :enqueue 1\n0 :ok :enqueue 1\n0 :invoke :drain\n0 :ok :drain []\n"
        "1 :invoke :dequeue\n1 :info :dequeue"), "fail"),
    "a-drain-that-failed-says-nothing": (
        "0 :invoke :enqueue 1\n0 :ok :enqueue 1\n0 :invoke :drain\n0 :fail :drain", "unknown"),
    "a-dequeue-that-was-refused-says-nothing": (
        ("0 :invoke :enqueue 1\n0 :ok :enqueue 1\n0 :invoke :dequeue\n"
        "0 :fail :dequeue nil :connection-refused"), "unknown"),
    "a-dequeue-that-found-nothing": (
        ("0 :invoke :enqueue 1\n0 :ok :enqueue 1\n0 :invoke :dequeue\n"
        "0 :fail :dequeue :empty"), "fail"),
    "twice-out-before-twice-in": (
        ("0 :invoke :enqueue 1\n0 :ok :enqueue 1\n0 :invoke :dequeue\n0 :ok :dequeue 1\n"
        "0 :invoke :dequeue\n0 :ok :dequeue 1\n0 :invoke :enqueue 1\n0 :ok :enqueue 1"), "fail"),
    "nothing-in-and-nothing-out": ("0 :invoke :drain\n0 :ok :drain nil", "pass"),
    "a-set-of-what-is-left": (
        "0 :invoke :enqueue 1\n0 :ok :enqueue 1\n0 :invoke :drain\n0 :ok :drain #{1}", "pass"),
    "out-before-in": (
        "0 :invoke :dequeue\n0 :ok :dequeue 1\n0 :invoke :enqueue 1\n0 :ok :enqueue 1", "fail"),
}  # fmt: skip


@pytest.mark.parametrize("name", QUEUES)
def test_a_queue(log, name):
    text, verdict = QUEUES[name]
    assert check_queue(log(text)).verdict.value == verdict


COUNTERS = {
    "zero": ("0 :invoke :read\n0 :ok :read 0", "pass"),
    "not-zero": ("0 :invoke :read\n0 :ok :read 1", "fail"),
    "lost": ("0 :invoke :add 1\n0 :ok :add 1\n0 :invoke :read\n0 :ok :read 0", "fail"),
    "twice": ("0 :invoke :add 1\n0 :ok :add 1\n0 :invoke :read\n0 :ok :read 2", "fail"),
    "perhaps": ("0 :invoke :add 1\n0 :info :add 1\n1 :invoke :read\n1 :ok :read 1", "pass"),
    "perhaps-not": ("0 :invoke :add 1\n0 :info :add 1\n1 :invoke :read\n1 :ok :read 0", "pass"),
    "refused": ("0 :invoke :add 1\n0 :fail :add 1\n1 :invoke :read\n1 :ok :read 1", "fail"),
    "meanwhile": ("0 :invoke :read\n1 :invoke :add 2\n0 :ok :read 2\n1 :ok :add 2", "pass"),
    "down": ("0 :invoke :add -2\n0 :ok :add -2\n0 :invoke :read\n0 :ok :read -2", "pass"),
    "up-and-down": ("0 :invoke :inc\n0 :ok :inc\n0 :invoke :dec\n0 :ok :dec\n0 :invoke :read\n0 :ok :read 0", "pass"),
    "not-down": ("0 :invoke :add -2\n0 :ok :add -2\n0 :invoke :read\n0 :ok :read 0", "fail"),
    "perhaps-down": ("0 :invoke :add -2\n1 :invoke :read\n1 :ok :read -2", "pass"),
    "nothing-read": ("0 :invoke :add 1\n0 :ok :add 1", "unknown"),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTERS)
def test_a_counter(log, name):
    text, verdict = COUNTERS[name]
    assert check_counter(log(text)).verdict.value == verdict
    assert judge(log(text), "counter", Rules(Budget())).verdict.value == verdict


def test_a_counter_within_its_bounds_may_still_be_no_counter(log):
    """Two reads, one after the other, of a number that falls: each is possible, both are not."""
    history = log(
        """
        0 :invoke :add 1
        1 :invoke :read
        1 :ok :read 1
        1 :invoke :read
        1 :ok :read 0
        0 :ok :add 1
        """
    )
    assert check_counter(history).verdict is Verdict.PASS
    judgement = judge(history, "counter", Rules(Budget()))
    assert judgement.verdict is Verdict.FAIL
    assert [finding.judge for finding in judgement.findings] == ["counter", "linearizable"]


BANKS = {
    "whole": ("0 :invoke :read\n0 :ok :read {0 10, 1 0}\n0 :invoke :read\n0 :ok :read {0 4, 1 6}", "pass"),
    "half": ("0 :invoke :read\n0 :ok :read {0 10, 1 0}\n0 :invoke :read\n0 :ok :read {0 4, 1 0}", "fail"),
    "negative": ("0 :invoke :read\n0 :ok :read {0 -1, 1 11}", "fail"),
    "other-accounts": ("0 :invoke :read\n0 :ok :read {0 10}\n0 :invoke :read\n0 :ok :read {1 10}", "fail"),
    "no-balance": ("0 :invoke :read\n0 :ok :read {0 10, 1 nil}", "fail"),
    "a-list": ("0 :invoke :read\n0 :ok :read [5 5]\n0 :invoke :read\n0 :ok :read [6 4]", "pass"),
    "nobody-looked": ("0 :invoke :transfer {:from 0, :to 1, :amount 4}", "unknown"),
}  # fmt: skip


@pytest.mark.parametrize("name", BANKS)
def test_a_bank(log, name):
    text, verdict = BANKS[name]
    assert check_bank(log(text)).verdict.value == verdict


def test_a_bank_with_a_known_total(log):
    history = log("0 :invoke :read\n0 :ok :read {0 10}")
    assert check_bank(history, 10).verdict is Verdict.PASS
    assert check_bank(history, 100).verdict is Verdict.FAIL


@pytest.mark.parametrize("model", ["register", "kv-append", "set", "queue", "counter", "bank", "list-append"])  # fmt: skip
def test_an_operation_that_a_model_does_not_know_is_an_error_with_its_line(log, model):
    with pytest.raises(HistoryError, match="line 2: 'jump'") as caught:
        judge(log("\n0 :invoke :jump 1"), model, Rules(Budget()))
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("register", "0 :invoke :cas 1"),
        ("kv-append", "0 :invoke :put 1"),
        ("counter", "0 :invoke :add :x"),
        ("set", "0 :invoke :read\n0 :ok :read 5"),
        ("queue", "0 :invoke :drain\n0 :ok :drain 5"),
        ("bank", "0 :invoke :read\n0 :ok :read {0 :x}"),
        ("list-append", "0 :invoke :txn [[:append :x]]"),
    ],
)
def test_a_value_that_makes_no_sense_is_an_error_with_its_line(log, model, text):
    with pytest.raises(HistoryError, match="line 1"):
        judge(log(text), model, Rules(Budget()))


def test_values_that_are_key_and_value_are_taken_apart(log):
    """Jepsen's independent: the two keys are two registers."""
    text = """
        0 :invoke :write [1 5]
        0 :ok :write [1 5]
        0 :invoke :read [2 nil]
        0 :ok :read [2 nil]
        0 :invoke :read [1 nil]
        0 :ok :read [1 5]
        0 :invoke :cas [1 [5 6]]
        0 :ok :cas [1 [5 6]]
        1 :invoke :read [1 nil]
        1 :ok :read [1 6]
        """
    assert judge(log(text), "cas", Rules(Budget())).verdict is Verdict.PASS
    stale = text.replace("[1 6]", "[1 5]").replace("[5 [1 6]]", "[1 [5 6]]")
    assert judge(log(stale), "cas", Rules(Budget())).verdict is Verdict.FAIL


QUEUES_BY_KEY = """
{"process":0,"type":"invoke","f":"enqueue","key":"a","value":1}
{"process":0,"type":"ok","f":"enqueue","key":"a","value":1}
{"process":0,"type":"invoke","f":"enqueue","key":"b","value":1}
{"process":0,"type":"ok","f":"enqueue","key":"b","value":1}
{"process":0,"type":"invoke","f":"dequeue","key":"a"}
{"process":0,"type":"ok","f":"dequeue","key":"a","value":1}
{"process":0,"type":"invoke","f":"dequeue","key":"b"}
{"process":0,"type":"ok","f":"dequeue","key":"b","value":1}
"""


def test_each_key_has_a_queue_and_a_bank_of_its_own():
    def verdict(text, model):
        return judge(read_history(text.encode()), model, Rules(Budget())).verdict.value

    assert verdict(QUEUES_BY_KEY, "queue") == "pass"
    assert (
        verdict(QUEUES_BY_KEY.replace('"dequeue","key":"b"', '"dequeue","key":"a"'), "queue")
        == "fail"
    )
    read = '{"process":0,"type":"%s","f":"read","key":"%s","value":%s}\n'
    banks = "".join(
        read % (type_, key, value if type_ == "ok" else "null")
        for key, value in (("a", [5, 5]), ("b", [1, 2]))
        for type_ in ("invoke", "ok")
    )
    assert verdict(banks, "bank") == "pass"
    assert verdict(banks.replace("[1, 2]", "[3, -1]"), "bank") == "fail"


def test_one_failure_fails_and_one_unknown_is_unknown():
    def findings(*verdicts):
        return [Finding("x", Verdict(verdict), "") for verdict in verdicts]

    assert worst(findings("pass", "pass")) is Verdict.PASS
    assert worst(findings("pass", "unknown")) is Verdict.UNKNOWN
    assert worst(findings("unknown", "fail", "pass")) is Verdict.FAIL
    assert worst([]) is Verdict.UNKNOWN
