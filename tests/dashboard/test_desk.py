"""Keys, chord, undo, palette and time, on a desk without a terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.actions import ACTIONS, Action
from cluster.api import ActionResult
from cluster.frames import Event
from dashboard.chord import keys_of
from dashboard.desk import Desk
from dashboard.keys import KEYS, keys_on
from dashboard.presenter.screen import compose
from dashboard.presenter.text import plain
from dashboard.presenter.view import PAGES, Size, Verdict
from tests.dashboard.scenes import START_MS

MIDDLE = Size(120, 36)
FEATURES = frozenset({"act", "demo", "replay"})


def never(*_: object) -> ActionResult:
    raise AssertionError("the hands of these tests run no action")


FAKE = Action(
    "wipe", "Remove a node's data.", "raftdeck node wipe n1", "nodes", None, never, asks=True
)


def test_every_key_has_a_command_and_no_page_has_a_key_twice():
    for key in KEYS:
        assert callable(getattr(Desk, f"_do_{key.command}")), key
    for page in PAGES:
        names = [name for key in keys_on(page, FEATURES) for name in key.names]
        assert len(names) == len(set(names)), page


def test_the_leader_is_selected_at_first_sight(rig):
    assert rig.desk.view.selected == 2


def test_the_chord_shows_before_it_acts(rig):
    rig.press("x")
    assert rig.desk.beside.chord is not None
    assert rig.hands.did == []
    rig.press("k")
    assert rig.hands.did == [("kill", "n2")]
    assert rig.desk.beside.chord is None
    assert "n2 killed" in rig.desk.view.notice
    assert rig.desk.picture.deeds[-1].cause == "you (x k)"


@pytest.mark.parametrize("key", ["escape", "x", "ctrl+c", "q"])
def test_the_chord_is_left_without_effect(rig, key):
    rig.press("x", key)
    assert rig.hands.did == []
    assert rig.desk.beside.chord is None
    assert not rig.desk.requests


def test_the_target_may_change_within_the_chord(rig):
    rig.press("x", "down", "p")
    assert rig.hands.did == [("pause", "n3")]


def test_a_key_without_a_verb_does_nothing_and_says_so(rig):
    rig.press("x", "9")
    assert rig.hands.did == []
    assert "no verb" in rig.desk.view.notice


def test_undo_takes_back_the_last_reversible_verb_once(rig):
    rig.press("x", "p", "u")
    assert rig.hands.did == [("pause", "n2"), ("resume", "n2")]
    rig.press("u")
    assert len(rig.hands.did) == 2
    assert "nothing to undo" in rig.desk.view.notice


def test_a_verb_with_nothing_to_undo_is_skipped_by_undo(rig):
    rig.press("x", "k", "x", "r", "u")
    assert rig.hands.did == [("kill", "n2"), ("restart", "n2"), ("start", "n2")]


def test_a_refusal_is_shown(rig):
    rig.hands.refusal = "kill: n2 is killed; nothing to do"
    rig.press("x", "k")
    assert "nothing to do" in rig.desk.view.notice
    rig.press("u")
    assert len(rig.hands.did) == 1, "what did not happen is not undone"


def test_a_slow_verb_does_not_hold_the_screen(rig):
    rig.hands.hold = True
    rig.press("x", "t", "j")
    assert rig.desk.view.selected == 3
    assert "stop n2 …" in rig.desk.view.notice
    rig.hands.held[0].set_exception(RuntimeError("broken"))
    assert rig.desk.collect()
    assert "broken" in rig.desk.view.notice


def test_a_verb_appears_by_being_registered(make_rig):
    rig = make_rig(actions=(*ACTIONS, FAKE))
    assert keys_of(rig.desk.actions)["wipe"] == "w"
    rig.press("x")
    assert "wipe" in [choice.name for choice in rig.desk.beside.chord.choices]
    rig.press("escape")
    assert "wipe" in [choice.name for choice in rig.desk.beside.choices], "help"
    rig.press(":", *"wip")
    assert rig.desk.beside.palette.entries[0][0] == "wipe n2"


@pytest.mark.parametrize("answer", ["enter", "escape", "n", "space"])
def test_what_cannot_be_undone_asks_and_the_default_is_no(make_rig, answer):
    rig = make_rig(actions=(*ACTIONS, FAKE))
    rig.press("x", "w")
    assert rig.desk.beside.question is not None
    rig.press(answer)
    assert rig.hands.did == []
    rig.press("x", "w", "y")
    assert rig.hands.did == [("wipe", "n2")]


def test_verbs_share_a_key_only_if_they_never_meet():
    from cluster.operations import NODE_VERBS

    for key in {action.key for action in ACTIONS}:
        same = [action for action in ACTIONS if action.key == key]
        first = NODE_VERBS[same[0].name].applies_to
        for other in same[1:]:
            extra = NODE_VERBS[other.name].applies_to - first
            assert extra, f"{other.name} could never be reached by {key}"


def test_readonly_has_no_chord_and_says_so(make_rig):
    rig = make_rig(hands=False)
    assert rig.desk.view.readonly
    rig.press("x")
    assert rig.desk.beside.chord is None
    assert "--readonly" in rig.desk.view.notice
    assert "chord" not in [key.command for key in rig.desk.beside.keys]
    rig.press(":", *"kill")
    assert rig.desk.beside.palette.entries == ()


def test_the_palette_runs_verbs_on_any_selector_and_every_command(rig):
    rig.press(":", *"pause followers", "enter")
    assert rig.hands.did == [("pause", "followers")]
    rig.press(":", *"help", "enter")
    assert rig.desk.view.page == "help"
    rig.press(":", *"nonsense", "enter")
    assert "no command" in rig.desk.view.notice
    rig.press(":", "escape")
    assert rig.desk.beside.palette is None


def test_the_palette_chooses_with_arrows_and_forgets_with_backspace(rig):
    rig.press(":", *"res", "down", "enter")
    assert rig.hands.did == [("resume", "n2")]
    rig.press(":", "k", "backspace")
    assert rig.desk.beside.palette.typed == ""


def test_space_freezes_the_picture_and_collection_goes_on(make_rig):
    rig = make_rig()
    frozen_at = rig.desk.frame.unix_ms
    rig.press("space")
    assert rig.desk.view.mode == "frozen"
    later = [replace(rig.frames[-1], sequence=900 + n, unix_ms=frozen_at + 100 * n) for n in (1, 2)]
    rig.source.extend(later)
    rig.run()
    assert rig.desk.frame.unix_ms == frozen_at
    assert rig.desk.picture.newest_ms == frozen_at + 200
    rig.press("G")
    rig.desk.press("upper_g", "G")
    assert rig.desk.view.mode == "live"
    assert rig.desk.frame.unix_ms == frozen_at + 200


def test_everything_is_shown_as_of_the_cursor(rig):
    rig.press("left_curly_bracket")
    assert rig.desk.view.mode == "frozen"
    assert rig.desk.frame.unix_ms == START_MS + 4_000
    assert all(event.unix_ms <= START_MS + 4_000 for event in rig.desk.picture.events)
    rig.press("right_curly_bracket")
    assert rig.desk.frame.unix_ms == START_MS + 14_000


def test_jumps_go_to_the_frame_that_shows_the_event(rig):
    rig.press("left_square_bracket")
    assert rig.desk.frame.unix_ms == START_MS + 9_000, "n3 frozen"
    rig.press("left_square_bracket")
    assert rig.desk.frame.unix_ms == START_MS + 7_400
    rig.press("right_square_bracket")
    assert rig.desk.frame.unix_ms == START_MS + 9_000
    rig.press("upper_e")
    assert rig.desk.frame.unix_ms == START_MS + 5_300, "the first frame after 5,233"
    rig.press("upper_f")
    assert rig.desk.frame.unix_ms == START_MS + 5_200, "the first frame after 5,112"
    rig.press("e")
    assert rig.desk.frame.unix_ms == START_MS + 5_300
    rig.press("upper_e")
    assert "no such event" in rig.desk.view.notice


def test_single_frames_are_stepped(rig):
    rig.press("minus", "minus")
    assert rig.desk.frame.unix_ms == START_MS + 13_800
    rig.press("equals_sign")
    assert rig.desk.frame.unix_ms == START_MS + 13_900
    rig.press("home")
    assert rig.desk.frame.unix_ms == START_MS


def test_the_palette_seeks_to_a_time_of_the_events_clock(rig):
    rig.press(":", *"seek 2:05.3", "enter")
    assert rig.desk.frame.unix_ms == START_MS + 5_300
    rig.press(":", *"seek soon", "enter")
    assert "no command" in rig.desk.view.notice


def test_a_fault_returns_to_the_present_first(rig):
    rig.press("left_curly_bracket", "x")
    assert rig.desk.view.mode == "live"
    assert rig.desk.beside.chord is not None


def test_a_replay_begins_at_its_beginning_and_plays_by_the_clock(make_rig):
    rig = make_rig(kind="replay", hands=False)
    assert rig.desk.view.mode == "replay"
    assert rig.desk.frame.unix_ms == START_MS
    rig.press("space")
    rig.now_ms += 1_000
    assert rig.desk.collect()
    assert rig.desk.frame.unix_ms == START_MS + 1_000
    rig.press("greater_than_sign")
    rig.now_ms += 1_000
    rig.desk.collect()
    assert rig.desk.frame.unix_ms == START_MS + 3_000
    rig.press("space")
    rig.now_ms += 5_000
    assert not rig.desk.collect()
    rig.press("x")
    assert "recording" in rig.desk.view.notice


def test_a_replay_has_the_past_of_its_cursor(make_rig):
    rig = make_rig(kind="replay", hands=False)
    rig.press("end")
    picture = rig.desk.picture
    assert picture.history.commit_rate(0, picture.now_ms) == pytest.approx(6_120, rel=0.02)
    rig.press("home")
    assert rig.desk.picture.now_ms == START_MS


def test_groups_are_chosen_by_key_and_table(make_rig):
    rig = make_rig(groups=4)
    rig.press("full_stop")
    assert rig.desk.view.group == 1
    rig.press("t", "j", "j", "enter")
    assert (rig.desk.view.page, rig.desk.view.group) == ("main", 3)
    rig.press("comma")
    assert rig.desk.view.group == 2
    rig.press(":", *"group 3", "enter")
    assert rig.desk.view.group == 3


def test_pages_open_and_close(rig):
    for key, page in (
        ("enter", "node"),
        ("o", "link"),
        ("w", "wal"),
        ("?", "help"),
        ("t", "groups"),
    ):
        rig.press(key)
        assert rig.desk.view.page == page
        rig.press("escape")
        assert rig.desk.view.page == "main"
    rig.press("o", "right", "left", "j", "escape", "z", "tab")
    assert rig.desk.view.zoomed
    assert rig.desk.view.tab == 1


def test_help_explains_the_page_it_was_asked_on_and_returns_there(rig):
    rig.press("w", "?")
    labels = [key.label for key in rig.desk.beside.help_keys]
    assert "pgup" in labels
    assert "tab" not in labels
    rig.press("j")
    assert rig.desk.view.scroll == 1
    rig.press("?")
    assert rig.desk.view.page == "wal"


def test_events_are_filtered_until_escape(rig):
    rig.press("/", *"killed", "enter")
    assert rig.desk.view.filter == "killed"
    rig.press("escape")
    assert rig.desk.view.filter == ""


def test_leaving_the_demo_asks_once(make_rig):
    rig = make_rig(leave_question="5 nodes end")
    rig.press("q")
    assert rig.desk.requests == []
    rig.press("q")
    assert rig.desk.requests == [], "any other key cancels"
    rig.press("q", "y")
    assert rig.desk.requests == ["leave"]


def test_a_notice_goes_by_itself(rig):
    rig.press("u")
    assert rig.desk.view.notice
    rig.now_ms += 7_000
    assert rig.desk.collect()
    assert not rig.desk.view.notice


class FakeTour:
    caption = "in 3 s: step 1/6: kill -9 of the leader"
    verdict: Verdict | None = None

    def __init__(self):
        self.calls = []

    def go_on(self):
        self.calls.append("next")

    def pause(self):
        self.calls.append("pause")

    def take_over(self):
        self.calls.append("mine")


def test_a_tour_is_hastened_paused_and_taken_over(make_rig):
    tour = FakeTour()
    rig = make_rig(tour=tour)
    assert rig.desk.view.caption == tour.caption
    rig.press("n", "p", "x", "k")
    assert tour.calls == ["next", "pause", "mine"]
    assert rig.hands.did == [("kill", "n2")]


def test_what_the_writer_found_so_far_is_not_shown_in_the_past(make_rig):
    tour = FakeTour()
    tour.verdict = Verdict("22,257 puts acked")
    rig = make_rig(tour=tour)
    assert rig.desk.picture.verdict == tour.verdict
    rig.press("left_curly_bracket")
    assert rig.desk.picture.verdict is None
    rig.press("G")
    assert rig.desk.picture.verdict == tour.verdict


def test_without_a_leader_l_says_so(make_rig):
    rig = make_rig("noquorum")
    rig.press("l")
    assert "no leader" in rig.desk.view.notice


def test_an_event_after_the_cursor_is_not_shown(make_rig):
    rig = make_rig()
    rig.press("space")
    event = Event(7, START_MS + 14_050, "system", "leader", 1, "n1 elected leader in term 8")
    newer = replace(rig.frames[-1], sequence=999, unix_ms=START_MS + 14_100, events=(event,))
    rig.source.extend([newer])
    rig.run()
    assert event not in rig.desk.picture.events
    rig.press("space")
    assert event in rig.desk.picture.events


# --- choosing an event, and marks -----------------------------------------------------


def listed(desk, size=MIDDLE):
    """The rows of the event pane, as text."""
    rows = [plain(row) for row in compose(desk.picture, desk.view, size, desk.beside)]
    top = next(at for at, row in enumerate(rows) if "─ EVENTS" in row)
    end = next((at for at in range(top + 1, len(rows)) if rows[at].startswith("└")), len(rows) - 2)
    return rows[top : end + 1]


def test_an_event_is_chosen_in_the_list_and_enter_goes_there(rig):
    rig.press("v")
    assert rig.desk.view.chosen == 6
    assert "6 of 6 · enter: go there · esc" in listed(rig.desk)[0]
    assert [row[1] for row in listed(rig.desk)[1:-1] if row[1] == "▸"] == ["▸"]
    rig.press("k", "up")
    assert "n2 elected leader" in next(row for row in listed(rig.desk) if row[1] == "▸")
    assert rig.desk.view.mode == "live", "choosing alone moves no time"
    rig.press("enter")
    assert rig.desk.frame.unix_ms == START_MS + 5_300
    assert rig.desk.view.mode == "frozen"
    rows = listed(rig.desk)
    assert "4 of 6" in rows[0]
    assert "n3 frozen" in "".join(rows), "what is after the cursor can be chosen, too"
    rig.press("j", "j", "enter")
    assert rig.desk.frame.unix_ms == START_MS + 9_000
    rig.press("pageup", "enter")
    assert "before the oldest frame: the script begins here" in rig.desk.view.notice
    rig.press("G")
    assert (rig.desk.view.mode, rig.desk.view.chosen) == ("live", None)
    assert "n3 frozen" in listed(rig.desk)[-2]


def test_a_list_that_is_left_leaves_time_and_panes_as_they_were(rig):
    rig.press("tab", "v", "k", "enter", "escape")
    assert (rig.desk.view.chosen, rig.desk.view.tab) == (None, 1)
    assert rig.desk.frame.unix_ms == START_MS + 7_400
    rig.press("v", "v", "j")
    assert rig.desk.view.chosen is None
    rig.press("/", *"nothing like it", "enter", "v")
    assert "no event to choose" in rig.desk.view.notice


def test_other_pages_have_their_own_keys_while_an_event_is_chosen(rig):
    rig.press("v", "?", "j")
    assert (rig.desk.view.scroll, rig.desk.view.chosen) == (1, 6)
    rig.press("escape", "t", "enter")
    assert (rig.desk.view.page, rig.desk.view.mode) == ("main", "live")
    rig.press("o", "escape")
    assert (rig.desk.view.page, rig.desk.view.chosen) == ("main", 6)
    rig.press("escape")
    assert rig.desk.view.chosen is None


def test_only_what_passes_the_filter_is_chosen(rig):
    rig.press("/", *"leader", "enter", "v")
    assert rig.desk.view.chosen == 4
    rig.press("k")
    assert rig.desk.view.chosen == 2
    assert "1 of 2" in listed(rig.desk)[0]
    rig.press("k", "pageup")
    assert rig.desk.view.chosen == 2


def test_the_list_takes_the_lower_part_of_a_small_screen(rig):
    before = len(listed(rig.desk, Size(80, 24)))
    rig.press("v")
    assert len(listed(rig.desk, Size(80, 24))) > before + 5


def test_a_mark_is_put_into_the_recording_of_a_living_cluster(rig):
    rig.press("m")
    rig.press(":", *"mark it slows down", "enter")
    assert rig.hands.did == [("mark", "mark 1"), ("mark", "it slows down")]
    assert "'it slows down' is in the recording" in rig.desk.view.notice
    rig.hands.refusal = "the supervisor is gone"
    rig.press("m")
    assert "mark: the supervisor is gone" in rig.desk.view.notice


@pytest.mark.parametrize(
    ("options", "keys", "why"),
    [
        ({"kind": "replay", "hands": False}, ("right_curly_bracket",), "is not written to"),
        ({"hands": False}, (), "--readonly"),
        ({}, ("left_curly_bracket",), "this is the past"),
    ],
)
def test_where_nothing_is_written_a_mark_is_kept_on_the_screen(make_rig, options, keys, why):
    rig = make_rig(**options)
    rig.press(*keys, "m")
    marked = rig.desk.time.now_ms
    assert why in rig.desk.view.notice
    rig.press(":", *"mark first look", "enter")
    assert not getattr(rig.hands, "did", [])
    rig.press("end")
    marks = [event.text for event in rig.desk.picture.events if event.kind == "mark"]
    assert marks == ["mark 1", "first look"]
    rig.press("home", "apostrophe")
    assert rig.desk.time.now_ms == marked
    rig.press("apostrophe")
    assert "no such event after" in rig.desk.view.notice
    rig.press("end", "quotation_mark")
    if marked < rig.desk.picture.newest_ms:
        assert rig.desk.time.now_ms == marked


def test_where_time_ends_it_is_said_why(rig):
    rig.press("home", "left_curly_bracket")
    assert rig.desk.view.notice == "the script begins here"
    rig.press("left_square_bracket")
    assert "no such event before this moment: the script begins here" in rig.desk.view.notice


def test_the_line_of_time_shows_what_is_after_the_cursor(rig):
    rig.press("home")
    row = plain(compose(rig.desk.picture, rig.desk.view, Size(120, 36), rig.desk.beside)[-2])
    assert "‖" in row
    assert row.index("●") < row.index("▲") < row.index("‖")
