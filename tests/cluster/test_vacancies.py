"""How long nobody led, as it can be known (`cluster.vacancies`)."""

from cluster.events import EventLog
from cluster.vacancies import GROUPS_WATCHED, Takeover, Vacancies
from node.metrics import GroupSnapshot, NodeSnapshot


def leading(node, term, *, led_ms=None, commit=20, log=(), group=0):
    led_at_ns = -1 if led_ms is None else 10**9 - led_ms * 1_000_000
    state = GroupSnapshot(
        group, "leader", term, node, node, 20, commit, 20, 20, 1, led_at_ns=led_at_ns, log=log
    )
    return NodeSnapshot(node, 1, 100 + node, 10**9, (state,))


def test_the_first_leader_took_nothing_from_nobody():
    assert Vacancies().seen(leading(1, 3), 10.0) == [Takeover(0, 3, 1, "")]


def test_the_gap_ends_when_the_new_leader_says_that_it_began():
    leads = Vacancies()
    leads.seen(leading(1, 3), 10.0)
    assert leads.lost(1, 20.0) == 1
    [taken] = leads.seen(leading(2, 4, led_ms=79, commit=21, log=(1, 3, 21, 4)), 20.2)
    assert taken.effect == "121 ms leaderless · commits again within 200 ms"
    assert leads.seen(leading(2, 4, led_ms=179), 20.3) == [], "it is told once"


def test_without_a_commit_of_the_new_term_none_is_claimed():
    leads = Vacancies()
    leads.seen(leading(1, 3), 10.0)
    leads.lost(1, 20.0)
    [taken] = leads.seen(leading(2, 4, led_ms=79, commit=20, log=(1, 3, 21, 4)), 20.2)
    assert taken.effect == "121 ms leaderless"


def test_a_leader_that_does_not_say_since_when_it_leads_gives_an_upper_bound():
    leads = Vacancies()
    leads.seen(leading(1, 3), 10.0)
    leads.lost(1, 20.0)
    assert leads.seen(leading(2, 4), 20.2)[0].effect == "at most 200 ms leaderless"


def test_of_a_loss_that_nobody_saw_no_duration_is_invented():
    leads = Vacancies()
    leads.seen(leading(1, 3), 10.0)
    assert leads.seen(leading(2, 4, led_ms=5), 20.2)[0].effect == "after n1 in term 3"


def test_a_frozen_leader_that_leads_on_was_not_lost():
    leads = Vacancies()
    leads.seen(leading(1, 3), 10.0)
    leads.lost(1, 20.0)
    assert leads.seen(leading(1, 3), 20.05) == []
    assert leads.seen(leading(2, 4, led_ms=5), 30.0)[0].effect == "after n1 in term 3"


def test_an_old_leader_that_wakes_up_takes_no_lead():
    leads = Vacancies()
    leads.seen(leading(1, 3), 10.0)
    leads.lost(1, 20.0)
    leads.seen(leading(2, 4, led_ms=5), 20.2)
    assert leads.seen(leading(1, 3), 21.0) == []
    assert leads.lost(1, 22.0) == 0


def test_elections_of_very_many_groups_are_not_told_one_by_one():
    state = leading(1, 3).groups[0]
    snapshot = NodeSnapshot(1, 1, 101, 10**9, (state,) * 2 * GROUPS_WATCHED)
    assert len(Vacancies().seen(snapshot, 1.0)) == 1


def test_a_step_is_the_cause_of_what_its_verb_does_and_of_nothing_else():
    log = EventLog()
    with log.credited([2], "3: cut the leader off"):
        mine = log.add("killed", "n2 killed", cause="user", node=2, effect="exit -9", group=1)
        other = log.add("killed", "n3 killed", cause="user", node=3)
        crash = log.add("crashed", "n2 crashed", cause="system", node=2)
    later = log.add("started", "n2 started", cause="user", node=2)
    assert (mine.step, mine.by) == ("3: cut the leader off", "step 3: cut the leader off")
    assert [event.step for event in (other, crash, later)] == ["", "", ""]
    assert [event.by for event in (other, crash)] == ["you", "the system"]
    assert (mine.effect, mine.group, log.sequence) == ("exit -9", 1, 4)
