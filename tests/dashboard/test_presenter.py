"""The presenter's promises: exact sizes, unknown as a dash, lags from history, fixed scales."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster.actions import ACTIONS
from cluster.frames import NodeFrame, ProcessState, ProcessTruth
from dashboard.chord import choices_for, chord_view
from dashboard.keys import keys_on
from dashboard.presenter.charts import _bands, entries_chart, latency_chart
from dashboard.presenter.events import cause_of, effect_of, event_rows, filtered
from dashboard.presenter.header import header_rows
from dashboard.presenter.history import SAMPLES_MAX, History, Lag, Sample
from dashboard.presenter.links import link_cell
from dashboard.presenter.microscope import FrameSight, WalSight
from dashboard.presenter.node_detail import Dossier, DossierThread
from dashboard.presenter.nodes import nice_ceiling, process_words, sparkline
from dashboard.presenter.overlay import PaletteView, Question
from dashboard.presenter.screen import Beside, compose, layout, screen_text
from dashboard.presenter.text import (
    ASCII,
    UNKNOWN,
    clip,
    count,
    decimal,
    duration,
    fit,
    plain,
    scaled,
    scaled_bytes,
    width_of,
)
from dashboard.presenter.view import PAGES, Deed, Size, View
from dashboard.themes import names_of, style_of
from node.metrics import LinkSnapshot, WalSnapshot
from tests.dashboard.scenes import (
    EVENTS,
    SCENES,
    START_MS,
    frames_of,
    parts_of,
    picture_of,
    view_of,
)
from tests.dashboard.scenes import frame_of as make_frame

DOSSIER = Dossier(
    2, (DossierThread("raftdeck-n2", 12_340), DossierThread("wal", 900)),
    (("wal/00000003.wal", 64 << 20),), ("n2: elected in term 7",), "data/n2",
)  # fmt: skip


def frame_sight(number: int, **changes) -> FrameSight:
    values: dict[str, Any] = {
        "position": (3 << 32) + 4_000_000 + number * 1024, "size": 1024, "kind": "BATCH", "group": 0,
        "term": 7, "index": 100 + number * 8, "count": 8, "sequence": number,
        "durable_pos": (3 << 32) + 4_000_000 + (number // 2) * 2048, "content": bytes(range(256)),
    } | changes  # fmt: skip
    return FrameSight(**values)


def wal_sight(**changes) -> WalSight:
    frames = tuple(frame_sight(number) for number in range(90))
    values: dict[str, Any] = {
        "node": 2, "directory": "data/n2/wal", "segment": "00000003.wal", "frames": frames,
        "end": frames[-1].position + 1024, "tail": "zeros, prepared for the next frames",
        "frames_total": 90,
    } | changes  # fmt: skip
    return WalSight(**values)


def beside_of(view: View) -> Beside:
    return Beside(
        keys=tuple(keys_on(view.page, frozenset({"act"}))),
        help_keys=tuple(keys_on(view.helped, frozenset({"act"}))),
        choices=choices_for(ACTIONS),
        dossier=DOSSIER,
        sight=wal_sight(),
    )


@pytest.mark.parametrize("nodes", range(1, 16))
def test_every_pane_fills_its_place_at_every_size(nodes):
    pictures = [picture_of(frames_of("healthy", nodes, end_ms=2_000))]
    for width, height in (
        (40, 10),
        (59, 16),
        (60, 16),
        (80, 24),
        (99, 30),
        (100, 24),
        (137, 41),
        (200, 60),
        (20, 4),
        (1, 1),
    ):
        for picture in pictures:
            rows = compose(picture, view_of("healthy"), Size(width, height), beside_of(View()))
            assert len(rows) == height
            assert {width_of(row) for row in rows} == {width}, (width, height)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("scene", SCENES)
def test_every_page_shows_every_scene(page, scene):
    picture = picture_of(frames_of(scene, 3, end_ms=11_000))
    view = replace(view_of(scene), page=page)
    for size in (Size(80, 24), Size(120, 36)):
        text = screen_text(compose(picture, view, size, beside_of(view)))
        assert len(text.splitlines()) <= size.height


def test_an_empty_source_says_that_it_waits():
    picture = picture_of(frames_of("healthy", 3, end_ms=0))
    empty = replace(picture, frame=None, history=History())
    for page in PAGES:
        view = View(page=page)
        text = screen_text(compose(empty, view, Size(80, 24), beside_of(view)))
        assert "waiting for the first frame" in text


def test_old_pictures_say_so():
    picture = picture_of(frames_of("healthy", 3, end_ms=1_000))
    size = Size(120, 36)
    late = replace(picture, clock_ms=picture.now_ms + 4_200)
    assert "NO FRAMES for 4.2 s" in screen_text(compose(late, View(), size, Beside()))
    gone = replace(picture, problem="the supervisor is gone: the cluster is down")
    text = screen_text(compose(gone, View(), size, Beside()))
    assert "ENDED" in text
    assert "the supervisor is gone" in text


@pytest.mark.parametrize("page", PAGES)
def test_panes_tile_the_screen(page):
    for width, height in ((80, 24), (120, 36), (200, 60)):
        for nodes in (1, 3, 5, 11, 15):
            cells: set[tuple[int, int]] = set()
            for place in layout(View(page=page), nodes, Size(width, height)).values():
                mine = {
                    (x, y)
                    for x in range(place.x, place.x + place.width)
                    for y in range(place.y, place.y + place.height)
                }
                assert not cells & mine
                cells |= mine
            assert len(cells) == width * height


def test_lag_in_ms_is_when_the_leader_passed_what_the_follower_has():
    def sample(ms, commit):
        return Sample(ms, ((1, 7, commit),))

    history = History(sample(1000 + 100 * n, 10 * n) for n in range(10))
    assert history.lag(55, 0, 1900) == Lag(400, False), "passed between 1500 and 1600"
    assert history.lag(90, 0, 1900) is None, "nobody is known to be ahead"
    assert history.lag(-1, 0, 1900) == Lag(900, True), "older than what is kept"
    assert history.lag(20, 0, 1400) == Lag(200, False), "as of an earlier moment"


def test_rates_need_two_samples_and_forget_a_silence():
    history = History([Sample(1000, ((1, 7, 0),)), Sample(2000, ((1, 7, 500),))])
    assert history.commit_rate(0, 1500) is None
    assert history.commit_rate(0, 2000) == 500
    assert history.commit_rate(0, 9000) is None, "nothing was reported for a while"
    assert history.commit_rate(3, 2000) is None, "there is no such group"


def test_history_is_bounded():
    history = History(Sample(100 * n, ((1, 1, n),)) for n in range(SAMPLES_MAX + 5_000))
    assert len(history) <= SAMPLES_MAX


def test_a_commit_index_never_falls_in_the_history_even_if_its_node_dies():
    history = History(Sample(n, ((1, 1, c),)) for n, c in enumerate((5, 9, 7, None, 8), 1))
    assert [sample.high[0] for sample in history.between(0, 10)] == [5, 9, 9, 9, 9]


def test_the_effect_of_a_killed_leader_is_the_time_without_one():
    history = History()
    for frame in frames_of("healthy", 3):
        history.add(frame)
    events = [replace(e, node=2) if e.kind == "killed" else e for e in EVENTS]
    events[3] = replace(events[3], node=1)
    assert "n1 after 121 ms" in effect_of(events[2], events, history)
    assert effect_of(events[5], events, history) == "", "n3 led nothing"


def test_an_event_names_its_cause():
    deeds = (Deed(START_MS + 5_000, START_MS + 5_200, (1,), "you (x k)"),)
    assert cause_of(EVENTS[2], deeds) == "you (x k)"
    assert cause_of(EVENTS[3], deeds) == "system"
    assert cause_of(EVENTS[4], deeds) == "you", "as a recording has it, which knows no keys"
    assert cause_of(replace(EVENTS[2], step="1/6 kill leader"), deeds) == "step 1/6 kill leader"
    assert cause_of(replace(EVENTS[3], step="2: transfer"), ()) == "step 2: transfer"
    assert [e.sequence for e in filtered(EVENTS, "leader n2")] == [4]


def test_an_effect_that_nobody_measured_is_a_dash_and_a_measured_one_is_told():
    frames = frames_of("healthy", 3)
    told = replace(EVENTS[5], sequence=7, kind="mark", effect="next new write acked after 121 ms")
    events = (*EVENTS, told, replace(told, sequence=8, effect=""))
    picture = replace(picture_of(frames), events=events)
    text = [plain(row) for row in event_rows(picture, view_of("healthy"), Size(118, 20))]
    frozen = next(line for line in text if "n3 frozen" in line and "‖" in line)
    assert frozen.rstrip("│ ").endswith("→ –")
    assert "◆" in text[7]
    assert "→ next new write acked after 121 ms" in text[7]
    assert "→" not in text[8], "a mark promises no effect"


def test_the_header_and_the_table_tell_one_commit_index_whatever_the_history_kept():
    frames = frames_of("healthy", 3)
    history = History()
    history.add(frames[100])  # a long look back keeps a frame of each second
    picture = replace(picture_of(frames), history=history)
    header = plain(header_rows(picture, view_of("healthy"), Size(120, 2))[1])
    leading = frames[-1].node(2).group(0)
    assert leading is not None
    assert f"{leading.commit:,}" in header


def test_numbers_never_lose_digits_silently():
    assert count(None) == decimal(None) == scaled(None, 5) == scaled_bytes(None) == UNKNOWN
    for value in (0, 7, 999, 1000, 12_345, 999_999, 1_234_567, 987_654_321, 5_000_000_000):
        for width in (4, 5, 6, 7, 9):
            text = scaled(value, width)
            assert len(text) <= width
            shown = text.replace(",", "")
            factor = {"k": 1e3, "M": 1e6, "G": 1e9}.get(shown[-1], 1)
            assert float(shown.rstrip("kMG")) * factor == pytest.approx(value, rel=0.1), text
    assert duration(121) == "121 ms"
    assert duration(4_100) == "4.1 s"
    assert duration(252_000) == "4:12"
    assert duration(3_700_000) == "1:01:40"
    assert scaled_bytes(52 << 20) == "52.0M"


def test_a_cut_text_shows_that_it_was_cut():
    assert clip("123456", 4) == "123…"
    assert plain(fit([("123456", "text")], 4)) == "123…"


def test_scales_are_steps_and_bars_are_fixed():
    assert [nice_ceiling(v) for v in (0, 10, 11, 3_605, 6_120)] == [10, 10, 20, 5_000, 10_000]
    assert sparkline([0.0, 5_000.0, 10_000.0, None], 10_000, 6) == "  ▁▅█ "


def test_histograms_count_by_powers_of_two():
    assert _bands((0, 3, 5, 0, 1), 9) == [("1", 3), ("2-3", 5), ("4-7", 0), ("8-15", 1)]
    assert sum(n for _, n in _bands(tuple(range(1, 14)), 3)) == sum(range(1, 14))


def test_a_node_without_histograms_is_unknown_and_not_empty():
    frames = frames_of("healthy", 3, end_ms=0)
    nodes = tuple(
        replace(p, snapshot=replace(p.snapshot, wal=WalSnapshot()))
        for p in frames[0].nodes
        if p.snapshot is not None
    )
    picture = picture_of([replace(frames[0], nodes=nodes)])
    size = Size(40, 8)
    assert "reports no histogram" in screen_text(entries_chart(picture, View(selected=2), size))
    assert UNKNOWN in screen_text(latency_chart(picture, View(), size))


def test_the_chord_names_the_signal_and_what_would_be_left():
    frame = frames_of("healthy", 3, end_ms=0)[0]
    view = chord_view(frame, 2, 0, ACTIONS)
    assert "n2" in view.target
    assert "pid 4002" in view.target
    effects = {choice.name: choice.effect for choice in view.choices}
    assert "SIGKILL" in effects["kill"]
    assert "SIGSTOP" in effects["pause"]
    assert "margin 0" in view.outlook
    assert "elect" in view.outlook
    dead = make_frame(0, parts_of("minority", 3, 11_000))
    assert "NO QUORUM" in chord_view(dead, 1, 0, ACTIONS).outlook


def test_verbs_that_do_not_apply_say_why():
    frame = make_frame(0, parts_of("minority", 3, 11_000))
    choices = {c.name: c for c in chord_view(frame, 3, 0, ACTIONS).choices}
    assert "crashed" in choices["kill"].refused
    assert not choices["start"].refused
    assert choices["restart"].refused, "its key means start on a dead node"


def test_the_microscope_marks_fsyncs_and_what_is_not_durable():
    picture = picture_of(frames_of("healthy", 3, end_ms=1_000))
    view = View(page="wal", selected=2)
    text = screen_text(compose(picture, view, Size(120, 36), beside_of(view)))
    assert "─┘ fsync" in text
    assert "NOT DURABLE" in text
    assert "not yet durable" in text
    assert "52 44 42 31" not in text, "this frame's bytes are made up"
    torn = beside_of(view)._replace(
        sight=wal_sight(torn=True, tail="TORN: header CRC", tail_bytes=b"half a frame")
    )
    assert "being written" in screen_text(compose(picture, view, Size(120, 36), torn))
    dead = picture_of([make_frame(0, parts_of("election", 3, 11_000))])
    text = screen_text(compose(dead, view, Size(120, 36), torn))
    assert "TORN" in text
    assert "half a frame" in text


def test_silence_between_followers_is_no_cut():
    frame = make_frame(0, parts_of("partition", 5, 14_000))
    assert link_cell(frame, 2, 4) == ("╳", "cut"), "the leader does not hear n4"
    assert link_cell(frame, 1, 4) == ("╳", "cut"), "n4 asks for votes, and n1 does not hear it"
    assert link_cell(frame, 1, 3)[1] == "text"
    calm = make_frame(0, parts_of("healthy", 5, 0))
    quiet = LinkSnapshot(3, 9_000_000_000, -1)
    n1 = calm.nodes[0]
    assert n1.snapshot is not None
    n1 = replace(n1, snapshot=replace(n1.snapshot, links=(quiet,)))
    assert link_cell(replace(calm, nodes=(n1, *calm.nodes[1:])), 1, 3) == ("·", "dim")
    assert n1.snapshot is not None
    n1 = replace(n1, snapshot=replace(n1.snapshot, links=(replace(quiet, node=2),)))
    assert link_cell(replace(calm, nodes=(n1, *calm.nodes[1:])), 1, 2) == ("╳", "cut")


def test_overlays_fit_the_smallest_screen():
    picture = picture_of(frames_of("healthy", 5, end_ms=1_000))
    assert picture.frame is not None
    for beside in (
        Beside(chord=chord_view(picture.frame, 2, 0, ACTIONS)),
        Beside(question=Question("kill n2?", "nothing undoes it")),
        Beside(
            palette=PaletteView(":", "ki", tuple((f"kill n{n}", "SIGKILL") for n in range(40)), 30)
        ),
    ):
        for size in (Size(60, 12), Size(80, 24), Size(200, 60)):
            rows = compose(picture, View(), size, beside)
            assert len(rows) == size.height
            assert {width_of(row) for row in rows} == {size.width}


def test_every_style_name_has_a_colour_in_both_themes():
    assert names_of("dark") == names_of("light")
    used = set()
    for scene in SCENES:
        picture = picture_of(frames_of(scene, 5, end_ms=11_000))
        for page in PAGES:
            view = replace(view_of(scene), page=page)
            for row in compose(picture, view, Size(120, 36), beside_of(view)):
                used |= {part for _, style in row for part in style.split()}
    assert used <= names_of("dark"), used - names_of("dark")


def test_the_mono_theme_has_no_colour():
    for name in names_of("dark"):
        style = style_of("mono", name)
        assert style.color is None
        assert style.bgcolor is None


def test_every_ascii_sign_is_one_cell():
    assert all(len(sign) == 1 and sign.isascii() for sign in ASCII.values())


def test_a_node_that_could_not_be_started_has_not_ended():
    truth = ProcessTruth(
        ProcessState.CRASHED, "system", 1_000, 0, last_log=("n3 cannot be started",)
    )
    assert process_words(NodeFrame(3, truth)) == ("no start", "bad")
    assert process_words(NodeFrame(3, replace(truth, starts=1))) == ("ended", "bad")
