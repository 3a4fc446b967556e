import contextlib
import random

import pytest

from cluster.exits import CommandError, Exit
from cluster.selectors import SELECTORS, describe_selectors, select


def picked(text, frame, **extra):
    return select(text, frame, **extra).nodes


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("n3", (3,)),
        ("3", (3,)),
        ("leader", (1,)),
        ("leader:0", (1,)),
        ("followers", (2, 3, 4, 5)),
        ("majority", (1, 2, 3)),
        ("minority", (4, 5)),
        ("all", (1, 2, 3, 4, 5)),
        ("up", (1, 2, 3, 4, 5)),
        ("n5, leader,n5", (1, 5)),
        ("minority,majority", (1, 2, 3, 4, 5)),
    ],
)
def test_a_selector_stands_for_nodes(healthy_frame, text, nodes):
    assert picked(text, healthy_frame) == nodes


def test_states_select(make_frame, make_node):
    frame = make_frame(
        make_node(1, "killed"),
        make_node(2, role="leader", leader=2),
        make_node(3, "frozen"),
        make_node(4, "crashed"),
        make_node(5, "stopped"),
    )
    assert picked("down", frame) == (1, 4, 5)
    assert picked("up", frame) == (2,)
    assert picked("frozen", frame) == (3,)


def test_majority_and_minority_part_every_cluster(make_frame, make_node):
    for count in range(2, 16):
        frame = make_frame(*(make_node(n) for n in range(1, count + 1)))
        large = picked("majority", frame)
        assert 2 * len(large) > count
        assert 2 * (len(large) - 1) <= count
        if count > 2:
            assert set(large) | set(picked("minority", frame)) == set(range(1, count + 1))


@pytest.mark.parametrize("text", ["n9", "0", "leeder", "", "n3,", "leader:1", "n3;n4", "N3", "-1"])
def test_an_unknown_selector_names_the_valid_ones(healthy_frame, text):
    with pytest.raises(CommandError, match="valid are: n1, n2, n3, n4, n5, leader") as caught:
        select(text, healthy_frame)
    assert caught.value.exit_code is Exit.USAGE
    assert "minority" in str(caught.value)
    assert "random" in str(caught.value)


@pytest.mark.parametrize("text", ["down", "frozen", "minority"])
def test_a_selector_that_stands_for_nobody_now_is_no_usage_error(make_frame, make_node, text):
    with pytest.raises(CommandError, match="no node is that") as caught:
        select(text, make_frame(make_node(1, role="leader")))
    assert caught.value.exit_code is Exit.FAILED


def test_without_a_leader_there_is_none_to_select(make_frame, make_node):
    frame = make_frame(make_node(1, "killed"), make_node(2, leader=0), make_node(3, leader=0))
    for text in ("leader", "followers"):
        with pytest.raises(CommandError, match="no node leads group 0"):
            select(text, frame)


def test_random_says_what_it_picked_and_repeats_itself_by_seed(healthy_frame):
    first = select("random", healthy_frame)
    [note] = first.notes
    assert note.startswith(f"random picked n{first.nodes[0]} (--seed ")
    seed = int(note.rpartition(" ")[2].rstrip(")"))
    assert select("random", healthy_frame, seed=seed) == first


def test_random_reaches_every_candidate_and_nobody_else(healthy_frame):
    seen = {picked("random", healthy_frame, candidates=(2, 4), seed=seed) for seed in range(50)}
    assert seen == {(2,), (4,)}
    with pytest.raises(CommandError, match="no node to draw from"):
        select("random", healthy_frame, candidates=())


def test_no_text_raises_anything_but_a_command_error(healthy_frame):
    rng = random.Random(3)
    words = [*("leader", "n1", "random", "all", ":", ",", " ", "n", "9" * 30, "\x00", "ü", "٣")]
    for _ in range(2000):
        text = "".join(rng.choice(words) for _ in range(rng.randrange(6)))
        with contextlib.suppress(CommandError):
            assert set(picked(text, healthy_frame)) <= {1, 2, 3, 4, 5}
    with pytest.raises(CommandError):
        select("n1," * 1000, healthy_frame)


def test_the_help_lists_every_selector():
    assert len(describe_selectors().splitlines()) == len(SELECTORS)
