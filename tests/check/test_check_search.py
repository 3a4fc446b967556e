"""Linearizability: the search against the definition, and each reduction against its absence."""

import random
from dataclasses import replace

import pytest

from cluster.check.budget import Budget, OutOfBudgetError
from cluster.check.history import EventType, History, Status, build_history
from cluster.check.linearizable import Way, check_linearizable
from cluster.check.models import CounterModel, KvAppendModel, Model, RegisterModel
from cluster.check.sample import SampleSpec, sample_events, sample_history
from cluster.check.verdict import Verdict
from cluster.check.wgl import Explainer, Search
from cluster.check.witness import check_witness
from cluster.check.zones import applies, check_zones
from tests.check.brute_force import explains, is_linearizable

KINDS = {
    "register": RegisterModel,
    "unique": RegisterModel,
    "kv-append": KvAppendModel,
    "counter": CounterModel,
}


def search(history, model, way=Way.SEARCH):
    finding, example = check_linearizable(history, model, Budget(30, 4096), way)
    return finding, example


def small(kind, seed, operations=9, crash_percent=20):
    return SampleSpec(
        operations, processes=4, kind=kind, crash_percent=crash_percent, values=3, seed=seed
    )


def mutated(spec, stream):
    """Change what one answered read saw: to what another saw, to a neighbour, or to the start."""
    events = list(sample_events(spec))
    reads = [n for n, e in enumerate(events) if e.type is EventType.OK and e.f in ("read", "get")]
    if not reads:
        return None
    place = stream.choice(reads)
    values = {events[n].value for n in reads} | {e.value for e in events if e.f == "write"}
    if spec.kind == "counter":
        values |= {events[place].value + 1, events[place].value - 1}
    values -= {events[place].value}
    if not values:
        return None
    events[place] = events[place]._replace(value=stream.choice(sorted(values, key=repr)))
    return build_history(events)


@pytest.mark.parametrize("kind", KINDS)
def test_a_real_run_is_linearizable_whatever_overlaps_and_crashes(kind):
    for seed in range(60):
        spec = SampleSpec(120, keys=3, processes=8, kind=kind, crash_percent=4, seed=seed)
        finding, _ = search(sample_history(spec), KINDS[kind])
        assert finding.verdict is Verdict.PASS, (spec, finding.reason)


@pytest.mark.parametrize("kind", KINDS)
def test_the_search_agrees_with_the_definition_on_mutated_histories(kind):
    stream = random.Random(kind)
    verdicts = []
    for seed in range(500):
        history = mutated(small(kind, seed), stream)
        if history is None:
            continue
        expected = is_linearizable(history.operations, KINDS[kind])
        finding, _ = search(history, KINDS[kind])
        assert (finding.verdict is Verdict.PASS) == expected, (kind, seed, finding)
        verdicts.append(expected)
    assert verdicts.count(True) > 20, "too few of the mutated histories were still linearizable"
    assert verdicts.count(False) > 100, "too few of the mutated histories were wrong"


@pytest.mark.parametrize("kind", ["register", "unique"])
def test_histories_with_many_open_writes_agree_with_the_definition(kind):
    stream = random.Random(7)
    verdicts = set()
    for seed in range(250):
        history = mutated(small(kind, seed, operations=10, crash_percent=55), stream)
        if history is None:
            continue
        expected = is_linearizable(history.operations, RegisterModel)
        assert (search(history, RegisterModel)[0].verdict is Verdict.PASS) == expected, seed
        verdicts.add(expected)
    assert verdicts == {True, False}


def test_zones_agree_with_the_definition_on_unique_values():
    stream = random.Random(5)
    verdicts = []
    for seed in range(600):
        history = mutated(small("unique", seed), stream)
        if history is None:
            continue
        assert applies(history.operations)
        expected = is_linearizable(history.operations, RegisterModel)
        assert (check_zones(history.operations) is None) == expected, seed
        verdicts.append(expected)
    assert min(verdicts.count(True), verdicts.count(False)) > 20


def test_the_committed_order_is_a_witness_of_a_real_run_and_not_of_a_mutated_one():
    stream = random.Random(3)
    refused = 0
    for seed in range(150):
        spec = small("register", seed, operations=30, crash_percent=10)
        history = sample_history(spec)
        assert check_witness(history.operations, RegisterModel) is None, seed
        changed = mutated(spec, stream)
        if changed is not None and check_witness(changed.operations, RegisterModel) is None:
            assert is_linear(changed), seed
        elif changed is not None:
            refused += 1
    assert refused > 50


def is_linear(history):
    return search(history, RegisterModel)[0].verdict is Verdict.PASS


def test_a_witness_has_to_respect_real_time():
    history = sample_history(SampleSpec(40, processes=1, kind="unique", seed=2))
    writes = [op for op in history.operations if op.f == "write"]
    writes[0].position, writes[1].position = writes[1].position, writes[0].position
    complaint = check_witness([writes[0], writes[1]], RegisterModel)
    assert complaint is not None
    assert "ended before" in complaint.reason


def test_a_witness_is_compared_with_whatever_began_last_and_not_with_its_neighbour(log):
    history = log(
        """
        0 :invoke :write 1
        2 :invoke :write 3
        2 :ok :write 3
        1 :invoke :write 2
        0 :ok :write 1
        1 :ok :write 2
        """
    )
    one, three, two = history.operations
    for position, op in enumerate((one, two, three)):
        op.position = position
    complaint = check_witness(history.operations, RegisterModel)
    assert complaint is not None
    assert complaint.operations == (three, two)


def test_a_write_of_unknown_outcome_that_a_witness_places_respects_real_time(log):
    """What the read saw began after the next write of the order had ended."""
    history = log(
        """
        0 :invoke :write 1
        0 :ok :write 1
        1 :invoke :read
        2 :invoke :write 7
        2 :ok :write 7
        3 :invoke :write 5
        1 :ok :read 5
        """
    )
    one, look, seven, five = history.operations
    one.position, look.position, seven.position = 1, 1, 2
    complaint = check_witness(history.operations, RegisterModel)
    assert complaint is not None
    assert complaint.operations == (seven, five)
    seven.position, look.position = 2, 2
    assert check_witness(history.operations, RegisterModel) is None


OPEN = """
    0 :invoke :write 1
    1 :invoke :cas [9 1]
    2 :invoke :write 9
    2 :ok :write 9
    3 :invoke :read
    3 :ok :read 1
    4 :invoke :write 5
    4 :ok :write 5
    5 :invoke :read
    5 :ok :read 1
    """
"""Holds: the compare-and-set, then the write of unknown outcome. The witness takes them the other way."""

BACKWARDS = """
    0 :invoke :write 1
    0 :ok :write 1
    1 :invoke :write 2
    1 :ok :write 2
    """


def at_positions(log, text, *positions, key=None):
    """Read a history; its answered operations stand at these positions."""
    history = log(text)
    answered = [op for op in history.operations if op.status is Status.OK]
    for op, position in zip(answered, positions, strict=True):
        op.position = position
    for op in history.operations:
        op.key = key
    return history.operations


def test_a_key_that_leaves_a_witness_in_doubt_hides_no_other_that_fails(log):
    both = History(
        at_positions(log, OPEN, 1, 2, 3, 4, key="a")
        + at_positions(log, BACKWARDS, 2, 1, key="b")
        + at_positions(log, OPEN, 1, 2, 3, 4, key="c")
    )
    finding, found = search(both, RegisterModel, Way.WITNESS)
    assert finding.verdict is Verdict.FAIL
    assert found.key == "b"
    both.operations = [op for op in both.operations if op.key != "b"]
    finding, _ = search(both, RegisterModel, Way.WITNESS)
    assert finding.verdict is Verdict.UNKNOWN
    assert finding.reason.endswith("2 of 2 keys are undecided")
    assert finding.facts["open_outcomes"] == 2
    assert search(both, RegisterModel)[0].verdict is Verdict.PASS


def test_an_answer_without_a_position_is_no_open_outcome(log):
    """The simulator's judges go on to the search for these only."""
    both = History(
        at_positions(log, OPEN, 1, 2, 3, 4, key="a")
        + at_positions(log, BACKWARDS, 1, None, key="b")
    )
    finding, _ = search(both, RegisterModel, Way.WITNESS)
    assert finding.verdict is Verdict.UNKNOWN
    assert "open_outcomes" not in finding.facts


def test_a_placed_write_of_unknown_outcome_covers_no_certain_violation(log):
    operations = at_positions(
        log,
        """
        0 :invoke :write 7
        0 :ok :write 7
        1 :invoke :write 5
        2 :invoke :read
        3 :invoke :write 9
        1 :ok :write 5
        2 :ok :read 9
        """,
        3, 1, 2,
    )  # fmt: skip
    complaint = check_witness(operations, RegisterModel)
    assert complaint is not None
    assert complaint.complete
    assert [op.argument for op in complaint.operations] == [7, None], "the read, not the write 9"


CHAIN = """
    0 :invoke :write 1
    0 :ok :write 1
    1 :invoke :write 4
    2 :invoke :cas [4 5]
    3 :invoke :cas [5 6]
    4 :invoke :read
    4 :ok :read {seen}
    """


@pytest.mark.parametrize(
    ("seen", "holds"), [(1, True), (4, True), (5, True), (6, True), (7, False)]
)
def test_a_witness_places_operations_of_unknown_outcome_that_build_on_each_other(log, seen, holds):
    """As in lite seeds 13808 and 19648: a delete, and a compare-and-set that expects nothing."""
    history = log(CHAIN.format(seen=seen))
    one, *_, look = history.operations
    one.position = look.position = 1
    assert (check_witness(history.operations, RegisterModel) is None) == holds
    finding, _ = search(history, RegisterModel)
    assert (finding.verdict is Verdict.PASS) == holds, "the search says the same"


def placed_somehow(kind, seed):
    """A run whose answers tell positions: mostly an order that explains them, sometimes any order."""
    stream = random.Random(seed)
    history = sample_history(small(kind, seed, operations=7, crash_percent=45))
    if seed % 2 and (changed := mutated(small(kind, seed, 7, 45), stream)) is not None:
        history = changed
    answered = [op for op in history.operations if op.status is Status.OK]
    answered.sort(key=lambda op: op.ret if seed % 3 else op.call)
    if seed % 5 == 0:
        stream.shuffle(answered)
    for position, op in enumerate(answered):
        op.position = position
    return history


@pytest.mark.parametrize("kind", KINDS)
def test_a_witness_says_no_only_where_no_place_for_the_unknown_ones_explains_it(kind):
    """And where it cannot tell, `--by witness` says so instead of `fail`."""
    met = dict.fromkeys(("pass", "fail", "unknown"), 0)
    for seed in range(700):
        history = placed_somehow(kind, seed)
        finding, _ = search(history, KINDS[kind], Way.WITNESS)
        met[finding.verdict.value] += 1
        if finding.verdict is Verdict.UNKNOWN:
            assert "the search decides: --by wgl" in finding.reason
            continue
        truth = explains(history.operations, KINDS[kind])
        assert (finding.verdict is Verdict.PASS) == truth, (kind, seed, finding.reason)
    assert min(met.values()) >= 20, met


def test_what_was_taken_of_unknown_outcome_is_part_of_where_a_search_has_been(log):
    """After write 1, both the open write and the open cas leave 2; only the write can do so twice."""
    history = log(
        """
        8 :invoke :write 2
        9 :invoke :cas [1 2]
        0 :invoke :write 1
        0 :ok :write 1
        0 :invoke :read
        0 :ok :read 2
        0 :invoke :write 3
        0 :ok :write 3
        0 :invoke :read
        0 :ok :read 2
        """
    )
    assert is_linearizable(history.operations, RegisterModel)
    for model in (RegisterModel, _Plain):
        assert search(history, model)[0].verdict is Verdict.PASS


def test_a_write_that_only_an_open_cas_comes_upon_is_not_placed_at_once(log):
    """2 is there only if the cas comes right behind write 1, and that behind write 3."""
    history = log(
        """
        9 :invoke :cas [1 2]
        0 :invoke :write 1
        1 :invoke :write 3
        2 :invoke :read
        0 :ok :write 1
        1 :ok :write 3
        2 :ok :read 2
        3 :invoke :read
        3 :ok :read 2
        """
    )
    assert is_linearizable(history.operations, RegisterModel)
    assert search(history, RegisterModel)[0].verdict is Verdict.PASS


class _Plain(RegisterModel):
    """A register without hints: every reduction that a model helps with is off."""

    helps = Model.helps
    sees = Model.sees
    makes = Model.makes


def test_the_hints_of_a_model_change_the_work_and_not_the_verdict():
    stream = random.Random(11)
    steps = {RegisterModel: 0, _Plain: 0}
    for seed in range(150):
        history = mutated(small("register", seed, operations=16, crash_percent=25), stream)
        if history is None:
            continue
        verdicts = set()
        for model in steps:
            found = Search(history.operations, model)
            verdicts.add(found.advance(10**7, Budget(30, 4096)))
            steps[model] += found.steps
        assert len(verdicts) == 1, seed
    assert steps[RegisterModel] < steps[_Plain]


def test_a_search_in_slices_ends_as_one_in_one_go():
    spec = SampleSpec(60, processes=8, crash_percent=10, seed=4)
    events = list(sample_events(spec))
    last = max(n for n, e in enumerate(events) if e.type is EventType.OK and e.f == "read")
    events[last] = events[last]._replace(value="never written")
    history = build_history(events)
    at_once, sliced = (Search(history.operations, _Plain) for _ in range(2))
    assert at_once.advance(10**7, Budget(30, 4096)) is False
    answers: list[bool | None] = []
    while not answers or answers[-1] is None:
        answers.append(sliced.advance(3, Budget(30, 4096)))
    assert answers[-1] is False
    assert len(answers) > 2
    assert sliced.steps == at_once.steps


class _Blind(KvAppendModel):
    """Texts without the hints: every order of appends is a state of its own."""

    def _known(self, text):
        return text

    reaches = Model.reaches


def test_a_search_out_of_time_or_memory_is_unknown_and_no_pass(log):
    lines = []
    for n in range(40):
        lines.append(f'{{:process {n}, :type :invoke, :f :append, :key "k", :value "{n},"}}')
    for n in range(40):
        lines.append(f'{{:process {n}, :type :ok, :f :append, :key "k", :value "{n},"}}')
    lines.append('{:process 0, :type :invoke, :f :get, :key "k", :value nil}')
    lines.append('{:process 0, :type :ok, :f :get, :key "k", :value "x"}')
    history = log("\n".join(lines))
    finding, _ = check_linearizable(history, _Blind, Budget(0.2, 4096), Way.SEARCH)
    assert finding.verdict is Verdict.UNKNOWN
    assert "--timeout" in finding.reason
    finding, _ = check_linearizable(history, _Blind, Budget(30, 1), Way.SEARCH)
    assert finding.verdict is Verdict.UNKNOWN
    assert "--memory" in finding.reason
    assert search(history, KvAppendModel)[0].verdict is Verdict.FAIL


def test_a_budget_counts_what_is_about_to_be_allocated():
    Budget(30, 1 << 20).check()
    with pytest.raises(OutOfBudgetError, match="--memory"):
        Budget(30, 1 << 20).check(1 << 50)


def test_a_key_that_fails_at_once_is_not_hidden_by_one_that_is_hard(log):
    lines = []
    for n in range(60):
        lines.append(f'{{:process {n}, :type :invoke, :f :append, :key "a", :value "{n},"}}')
    for n in range(60):
        lines.append(f'{{:process {n}, :type :ok, :f :append, :key "a", :value "{n},"}}')
    for key, value in (("a", "x"), ("b", "y")):
        lines.append(f'{{:process 0, :type :invoke, :f :get, :key "{key}", :value nil}}')
        lines.append(f'{{:process 0, :type :ok, :f :get, :key "{key}", :value "{value}"}}')
    finding, example = check_linearizable(log("\n".join(lines)), _Blind, Budget(30, 8192))
    assert finding.verdict is Verdict.FAIL
    assert example is not None
    assert example.key == "b"


def test_the_longest_prefix_ends_at_the_read_that_nothing_explains(log):
    history = log(
        """
        0 :invoke :write 1
        0 :ok :write 1
        1 :invoke :write 2
        1 :ok :write 2
        2 :invoke :read nil
        2 :ok :read 1
        """
    )
    finding, example = search(history, RegisterModel)
    assert finding.verdict is Verdict.FAIL
    assert example is not None
    assert example.stuck is not None
    assert [placed.operation.argument for placed in example.stuck.prefix] == [1, 2]
    assert [op.line for op in example.culprits] == [6]
    assert "finds 2" in finding.reason


def test_what_is_told_is_the_longest_of_all_orders_that_were_found():
    stream = random.Random(2)
    longer = 0
    for seed in range(120):
        history = mutated(small("register", seed), stream)
        if history is None:
            continue
        searches = [cls(history.operations, RegisterModel) for cls in (Search, Explainer)]
        found = {each.advance(10**6, Budget(30, 4096)) for each in searches}
        assert len(found) == 1
        if found == {False}:
            lengths = [len(each.stuck().prefix) for each in searches]
            _, example = search(history, RegisterModel)
            assert example is not None
            assert example.stuck is not None
            assert len(example.stuck.prefix) == max(lengths)
            longer += lengths[1] > lengths[0]
    assert longer > 10, "an explainer is there to tell more"


def test_an_order_that_is_found_is_an_order():
    for seed in range(40):
        history = sample_history(replace(small("register", seed), operations=40))
        found = Search(history.operations, RegisterModel)
        assert found.advance(10**6, Budget(30, 4096))
        assert found.order is not None
        latest = -1
        state = None
        model = RegisterModel()
        for placed in found.order:
            assert placed.operation.ret > latest, "a completed operation stands behind a later one"
            latest = max(latest, placed.operation.call)
            action = RegisterModel.action(placed.operation)
            assert action is not None
            state = model.step(state, action)
            assert model.show(state) == placed.state
