"""Anomalies of transactions: each in its smallest form, beside a history that only looks like it."""

import itertools
import random

import pytest

from cluster.check.anomalies import FORBIDDEN, Consistency
from cluster.check.cycles import Graph, Kind
from cluster.check.history import Event, EventType, HistoryError, build_history
from cluster.check.list_append import check_list_append
from cluster.check.verdict import Verdict


def txn(*steps, status="ok", process=None):
    return (process, steps, status)


def a(key, value):
    return ("append", key, value)


def r(key, *values):
    return ("r", key, values)


def overlapping(*transactions):
    """All begin before the first ends, so real time says nothing."""
    events = [
        Event(n, EventType.INVOKE, "txn", asked(steps)) for n, (_, steps, _) in enumerate(transactions)
    ]  # fmt: skip
    for n, (_, steps, status) in enumerate(transactions):
        events.append(Event(n, EventType(status), "txn", steps if status == "ok" else asked(steps)))
    return build_history(events)


def one_by_one(*transactions):
    """Each ends before the next begins."""
    events = []
    for n, (_, steps, status) in enumerate(transactions):
        events.append(Event(n, EventType.INVOKE, "txn", asked(steps)))
        events.append(Event(n, EventType(status), "txn", steps if status == "ok" else asked(steps)))
    return build_history(events)


def asked(steps):
    return tuple((f, key, None) if f == "r" else (f, key, value) for f, key, value in steps)


def anomalies(history, consistency=Consistency.STRICT):
    found = check_list_append(history, consistency)
    names = set(found.facts["anomalies"])
    assert (found.verdict is Verdict.FAIL) == bool(names)
    return names


CASES = {
    # name: what has it, and what has it not
    "G0": (
        [txn(a("x", 1), a("y", 1)), txn(a("x", 2), a("y", 2)), txn(r("x", 1, 2), r("y", 2, 1))],
        [txn(a("x", 1), a("y", 1)), txn(a("x", 2), a("y", 2)), txn(r("x", 1, 2), r("y", 1, 2))],
    ),
    "G1a": (
        [txn(a("x", 1), status="fail"), txn(r("x", 1))],
        [txn(a("x", 1), status="info"), txn(r("x", 1))],
    ),
    "G1b": (
        [txn(a("x", 1), a("x", 2)), txn(r("x", 1)), txn(r("x", 1, 2))],
        [txn(a("x", 1), r("x", 1), a("x", 2)), txn(r("x", 1, 2)), txn(r("x"))],
    ),
    "G1c": (
        [txn(a("x", 1), r("y", 1)), txn(a("y", 1), r("x", 1))],
        [txn(a("x", 1), r("y", 1)), txn(a("y", 1), r("x"))],
    ),
    "G-single": (
        [txn(a("x", 1), a("y", 1)), txn(r("x", 1), r("y")), txn(r("y", 1))],
        [txn(a("x", 1), a("y", 1)), txn(r("x"), r("y")), txn(r("y", 1), r("x", 1))],
    ),
    "G2": (
        [txn(r("x"), a("y", 1)), txn(r("y"), a("x", 1)), txn(r("x", 1), r("y", 1))],
        [txn(r("x"), a("y", 1)), txn(r("y", 1), a("x", 1)), txn(r("x", 1), r("y", 1))],
    ),
    "internal": (
        [txn(a("x", 1), r("x"))],
        [txn(a("x", 1), r("x", 1))],
    ),
    "incompatible-order": (
        [txn(a("x", 1)), txn(a("x", 2)), txn(r("x", 1, 2)), txn(r("x", 2))],
        [txn(a("x", 1)), txn(a("x", 2)), txn(r("x", 1, 2)), txn(r("x", 1))],
    ),
    "duplicate": (
        [txn(a("x", 1)), txn(r("x", 1, 1))],
        [txn(a("x", 1)), txn(a("x", 2)), txn(r("x", 1, 2))],
    ),
    "unwritten": (
        [txn(r("x", 9))],
        [txn(a("x", 9), status="info"), txn(r("x", 9))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_anomaly_is_found_and_its_neighbour_is_none(name):
    bad, good = CASES[name]
    # What was read of a transaction half done, it also overwrote: a cycle with one rw.
    more = {"G-single"} if name == "G1b" else set()
    assert anomalies(overlapping(*bad)) == {name} | more
    assert anomalies(overlapping(*good)) == set()


TIMED = {
    "G0-realtime": (
        [txn(a("x", 2)), txn(a("x", 1)), txn(r("x", 1, 2))],
        [txn(a("x", 1)), txn(a("x", 2)), txn(r("x", 1, 2))],
    ),
    "G1c-realtime": (
        [txn(r("x", 1)), txn(a("x", 1))],
        [txn(a("x", 1)), txn(r("x", 1))],
    ),
    "G-single-realtime": (
        [txn(a("x", 1)), txn(r("x")), txn(r("x", 1))],
        [txn(r("x")), txn(a("x", 1)), txn(r("x", 1))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TIMED)
def test_an_anomaly_of_real_time_counts_for_strict_serializability_only(name):
    bad, good = TIMED[name]
    assert anomalies(one_by_one(*bad)) == {name}
    assert anomalies(one_by_one(*bad), Consistency.SERIALIZABLE) == set()
    assert anomalies(overlapping(*bad)) == set()
    assert anomalies(one_by_one(*good)) == set()


def test_two_anti_dependencies_that_time_closes_are_a_g2_of_real_time():
    """T1 overlaps both others, of which T2 ends before T0 begins."""
    history = build_history(
        [
            Event(1, EventType.INVOKE, "txn", (a("x", 1), ("r", "y", None))),
            Event(2, EventType.INVOKE, "txn", (a("y", 1),)),
            Event(2, EventType.OK, "txn", (a("y", 1),)),
            Event(0, EventType.INVOKE, "txn", (("r", "x", None),)),
            Event(0, EventType.OK, "txn", (r("x"),)),
            Event(1, EventType.OK, "txn", (a("x", 1), r("y"))),
        ]
    )
    assert anomalies(history) == {"G2-realtime"}
    assert anomalies(history, Consistency.SERIALIZABLE) == set()


@pytest.mark.parametrize(
    ("consistency", "forbidden"),
    [
        (Consistency.READ_COMMITTED, {"G0", "G1c"}),
        (Consistency.SERIALIZABLE, {"G0", "G1c", "G-single", "G2"}),
    ],
)
def test_a_weaker_promise_allows_more(consistency, forbidden):
    for name in ("G0", "G1c", "G-single", "G2"):
        expected = {name} & forbidden
        assert anomalies(overlapping(*CASES[name][0]), consistency) == expected
    assert forbidden == {known.name for known in FORBIDDEN[consistency]}


def test_an_append_that_is_acknowledged_and_missing_from_a_later_read_is_found():
    """No read ever shows it: it stands behind everything that was read, and so behind the reader."""
    assert anomalies(one_by_one(txn(a("x", 1)), txn(r("x")))) == {"G-single-realtime"}
    assert anomalies(one_by_one(txn(a("x", 1), status="info"), txn(r("x")))) == set()


def test_what_nobody_read_still_stands_behind_what_was_read():
    history = one_by_one(txn(a("x", 2)), txn(a("x", 1)), txn(r("x", 1)))
    assert anomalies(history) == {"G0-realtime"}


def test_a_transaction_of_unknown_outcome_counts_once_a_value_of_it_was_seen():
    half = [txn(a("x", 1), a("y", 1), status="info"), txn(r("x", 1), r("y")), txn(r("y", 1))]
    assert anomalies(overlapping(*half)) == {"G-single"}


def test_a_list_that_changes_within_a_transaction_is_a_contradiction():
    assert anomalies(overlapping(txn(r("x"), r("x", 1)), txn(a("x", 1)))) == {
        "internal",
        "G-single",
    }
    assert anomalies(overlapping(txn(r("x", 1), r("x", 1)), txn(a("x", 1)))) == set()


OWN_ORDER = {
    "its own append, before it made it": [txn(r("x", 1), a("x", 1))],
    "the same, behind what it had appended": [txn(a("x", 1), r("x", 1, 2), a("x", 2))],
    "two appends the other way round": [txn(a("x", 1), a("x", 2)), txn(a("x", 3)), txn(r("x", 2, 1, 3))],
    "the second of two appends alone": [txn(r("x", 2)), txn(a("x", 1), a("x", 2))],
}  # fmt: skip


@pytest.mark.parametrize("consistency", Consistency)
@pytest.mark.parametrize("name", OWN_ORDER)
def test_a_transaction_takes_its_own_steps_in_order(name, consistency):
    """Elle's future reads among them; no consistency allows it."""
    assert "internal" in anomalies(overlapping(*OWN_ORDER[name]), consistency)


def test_under_read_committed_a_second_read_may_see_more_and_never_less_of_its_own():
    rules = Consistency.READ_COMMITTED
    fuzzy = [txn(r("x"), r("x", 1)), txn(a("x", 1))]
    assert anomalies(overlapping(*fuzzy), rules) == set()
    assert "internal" in anomalies(overlapping(*fuzzy), Consistency.SERIALIZABLE)
    assert anomalies(overlapping(txn(a("x", 1), r("x", 1), r("x"))), rules) == {"internal"}
    assert anomalies(overlapping(txn(a("x", 1), r("x"))), rules) == {"internal"}


def test_a_value_that_failed_to_be_appended_may_be_appended_again():
    again = [txn(a("x", 1), status="fail"), txn(a("x", 1)), txn(r("x", 1))]
    for order in itertools.permutations(again):
        assert anomalies(overlapping(*order)) == set()
    assert anomalies(overlapping(again[0], again[0], again[2])) == {"G1a"}
    with pytest.raises(HistoryError, match="second time"):
        check_list_append(overlapping(again[0], again[1], again[1]))


def test_a_cycle_is_told_with_the_reason_of_each_edge():
    finding = check_list_append(overlapping(*CASES["G-single"][0]))
    text = "\n".join(finding.lines)
    assert "T1 [read x → [1], read y → []]" in text
    assert "(rw): list y was read without 1" in text
    assert "(wr): list x was read up to 1" in text
    finding = check_list_append(overlapping(*CASES["G0"][0]))
    assert "(ww): list x holds 1 right before 2" in "\n".join(finding.lines)
    finding = check_list_append(one_by_one(*TIMED["G-single-realtime"][0]))
    assert "ended before the second began" in "\n".join(finding.lines)


def test_a_long_cycle_is_told_in_its_order():
    size = 9
    history = overlapping(*[txn(r(f"k{n}"), a(f"k{(n + 1) % size}", n)) for n in range(size)])
    finding = check_list_append(history)
    assert set(finding.facts["anomalies"]) == {"G2"}
    arrows = [line.split("(")[0].split() for line in finding.lines if "(rw)" in line]
    assert len(arrows) == size
    assert [arrow[2] for arrow in arrows] == [arrow[0] for arrow in (*arrows[1:], arrows[0])]


def test_a_value_that_is_appended_twice_cannot_be_traced():
    with pytest.raises(HistoryError, match="second time"):
        check_list_append(overlapping(txn(a("x", 1)), txn(a("x", 1))))
    with pytest.raises(HistoryError, match="second time"):
        check_list_append(overlapping(txn(a("x", 1), a("x", 1))))


def test_without_a_read_nothing_is_known():
    assert check_list_append(overlapping(txn(a("x", 1)))).verdict is Verdict.UNKNOWN


def run_of_a_database(stream, size, processes=6, crash_percent=5):
    """Transactions that take effect at one instant each, seen from outside."""
    lists: dict[str, list[int]] = {}
    events = []
    under_way: dict[int, list] = {}
    value, left, process_of = 0, size, {n: n for n in range(processes)}
    while left or under_way:
        lane = stream.randrange(processes)
        if lane not in under_way:
            if not left:
                continue
            left -= 1
            steps = []
            for _ in range(stream.randint(1, 4)):
                key = f"k{stream.randrange(4)}"
                value += 1
                steps.append(("r", key, None) if stream.random() < 0.5 else ("append", key, value))
            under_way[lane] = [tuple(steps), None]
            events.append(Event(process_of[lane], EventType.INVOKE, "txn", tuple(steps)))
            continue
        asked_, done = under_way[lane]
        if done is None:
            told = []
            crashes = stream.random() * 100 < crash_percent
            if not crashes or stream.random() < 0.5:
                for f, key, value_ in asked_:
                    if f == "append":
                        lists.setdefault(key, []).append(value_)
                    told.append((f, key, tuple(lists.get(key, ())) if f == "r" else value_))
            under_way[lane][1] = tuple(told)
            if crashes:
                del under_way[lane]
                events.append(Event(process_of[lane], EventType.INFO, "txn", asked_))
                process_of[lane] += processes
        else:
            del under_way[lane]
            events.append(Event(process_of[lane], EventType.OK, "txn", done))
    return events


def test_a_real_run_has_no_anomaly_and_one_with_a_changed_read_mostly_does():
    stream = random.Random(8)
    caught = 0
    for seed in range(60):
        events = run_of_a_database(random.Random(seed), 60)
        finding = check_list_append(build_history(events))
        assert finding.verdict is Verdict.PASS, (seed, finding.lines)
        places = [
            (n, m)
            for n, event in enumerate(events) if event.type is EventType.OK
            for m, step in enumerate(event.value) if step[0] == "r" and step[2]
        ]  # fmt: skip
        n, m = stream.choice(places)
        f, key, values = events[n].value[m]
        steps = list(events[n].value)
        steps[m] = (f, key, values[:-1])
        events[n] = events[n]._replace(value=tuple(steps))
        caught += check_list_append(build_history(events)).verdict is Verdict.FAIL
    assert caught > 45


def test_parts_that_are_connected_are_those_of_the_definition():
    stream = random.Random(4)
    for _ in range(120):
        size = stream.randint(2, 12)
        graph = Graph(size)
        edges = {(stream.randrange(size), stream.randrange(size)) for _ in range(2 * size)}
        for from_, to in edges:
            graph.add(from_, to, Kind.WW)
        reach = {n: {n} for n in range(size)}
        for _ in range(size):
            for from_, to in edges:
                for known in reach.values():
                    if from_ in known:
                        known.add(to)
        expected = {
            frozenset(m for m in range(size) if m in reach[n] and n in reach[m])
            for n in range(size)
        }  # fmt: skip
        found = {frozenset(part) for part in graph.components(Kind.WW)}
        assert found == {part for part in expected if len(part) > 1}
        for part in found:
            first, second = sorted(part)[:2]
            path = graph.path(first, second, Kind.WW, set(part))
            assert path is not None
            assert path[0].from_ == first
            assert path[-1].to == second
            assert all(one.to == two.from_ for one, two in itertools.pairwise(path))


def test_real_time_is_an_order_of_what_does_not_overlap():
    spans = [(0, 3), (1, 2), (4, 6), (5, None), (7, 8)]
    graph = Graph(len(spans))
    graph.add_time(spans)
    for one, (_, ended) in enumerate(spans):
        for two, (began, _) in enumerate(spans):
            if one == two:
                continue
            within = set(range(100))
            path = graph.path(one, two, Kind.TIME, within)
            assert (path is not None) == (ended is not None and ended < began), (one, two)
