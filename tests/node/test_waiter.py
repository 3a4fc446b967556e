"""Waiting by descriptors, and the trap in it: a wake-up that somebody else took. See `node.waiter`."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest
import zmq

from node.client_wire import encode_write_request
from node.clients import ClientLane
from node.transport import bind_router
from node.waiter import Waiter, has_message
from tests.node.rig import CLUSTER, SESSION, Node, write_of

PATIENCE_S = 10.0
FILES = 40


class Desk:
    """A context, a waiter, and pairs of sockets: ours is waited for, theirs sends."""

    def __init__(self) -> None:
        self.context: zmq.Context = zmq.Context()
        self.waiter = Waiter()
        self.ours: dict[str, zmq.Socket] = {}
        self.theirs: dict[str, zmq.Socket] = {}

    def pair(self, name: str) -> None:
        ours, theirs = self.context.socket(zmq.PAIR), self.context.socket(zmq.PAIR)
        ours.bind(f"inproc://{name}")
        theirs.connect(f"inproc://{name}")
        self.ours[name], self.theirs[name] = ours, theirs
        self.waiter.add_socket(name, ours)

    def fd_is_silent(self, name: str) -> bool:
        fd = self.ours[name].getsockopt(zmq.FD)
        assert isinstance(fd, int)
        return not select.select([fd], [], [], 0)[0]

    def close(self) -> None:
        for socket in (*self.ours.values(), *self.theirs.values()):
            socket.close(0)
        self.waiter.close()
        self.context.term()


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.close()


def drain(socket: zmq.Socket) -> list[bytes]:
    taken = []
    while has_message(socket):
        taken.append(socket.recv(zmq.NOBLOCK))
    return taken


def until(desk: Desk, *names: str) -> None:
    """Wait until these, and only these, are ready; false alarms may come before."""
    for _ in range(100):
        ready = desk.waiter.wait(PATIENCE_S)
        found = {name for name in ready if name not in desk.ours or has_message(desk.ours[name])}
        if found:
            assert found == set(names)
            return
    raise AssertionError("nothing but false alarms")


def test_a_message_wakes_whoever_waits_for_its_socket(desk):
    desk.pair("a")
    desk.pair("b")
    desk.theirs["b"].send(b"hello")
    until(desk, "b")
    assert drain(desk.ours["b"]) == [b"hello"]
    desk.waiter.touched(("b",))
    until_quiet(desk)


def until_quiet(desk: Desk) -> None:
    """Take false alarms in until a wait runs out."""
    for _ in range(100):
        ready = desk.waiter.wait(0)
        for name in ready & set(desk.ours):
            assert not drain(desk.ours[name])
        desk.waiter.touched(ready & set(desk.ours))
        if not ready:
            return
    raise AssertionError("it never grows quiet")


def test_a_message_that_came_before_its_socket_was_added_is_found(desk):
    """Nothing will ever make the descriptor readable for it."""
    ours, theirs = desk.context.socket(zmq.PAIR), desk.context.socket(zmq.PAIR)
    ours.bind("inproc://early")
    theirs.connect("inproc://early")
    theirs.send(b"early")
    assert has_message(ours), "and looking took the wake-up in"
    desk.ours["early"], desk.theirs["early"] = ours, theirs
    desk.waiter.add_socket("early", ours)
    assert desk.waiter.wait(0) == {"early"}


def test_a_message_whose_wake_up_a_send_took_in_is_found_by_who_touched(desk):
    """The edge: any call on the socket empties its descriptor, a send too."""
    desk.pair("a")
    until_quiet(desk)
    desk.theirs["a"].send(b"question")
    while not desk.fd_is_silent("a"):
        desk.ours["a"].send(b"answer to somebody else")
    assert desk.waiter.wait(0) == set(), "whoever does not say so sleeps on a message"
    desk.waiter.touched(("a",))
    assert desk.waiter.wait(PATIENCE_S) == {"a"}
    assert drain(desk.ours["a"]) == [b"question"]


def test_who_leaves_messages_behind_and_says_so_is_woken_at_once(desk):
    desk.pair("a")
    for number in range(3):
        desk.theirs["a"].send(b"%d" % number)
    until(desk, "a")
    for number in range(3):
        assert desk.ours["a"].recv(zmq.NOBLOCK) == b"%d" % number
        desk.waiter.touched(("a",))
        assert ("a" in desk.waiter.wait(0)) == (number < 2)


def test_touching_lasts_for_one_wait(desk):
    desk.pair("a")
    until_quiet(desk)
    desk.theirs["a"].send(b"x")
    while not desk.fd_is_silent("a"):
        assert has_message(desk.ours["a"])
    desk.waiter.touched(("a",))
    assert desk.waiter.wait(0) == {"a"}
    assert desk.waiter.wait(0) == set()


def test_a_ready_socket_hides_no_file_and_no_other_socket(desk):
    desk.pair("a")
    desk.pair("b")
    until_quiet(desk)
    read_end, write_end = os.pipe()
    desk.waiter.add_file("pipe", read_end)
    os.write(write_end, b"x")
    for name in ("a", "b"):
        desk.theirs[name].send(b"x")
    desk.waiter.touched(("a",))
    until(desk, "a", "b", "pipe")
    for fd in (read_end, write_end):
        os.close(fd)


def test_a_file_is_ready_until_it_is_read_and_at_its_end(desk):
    read_end, write_end = os.pipe()
    desk.waiter.add_file("lifeline", read_end)
    assert desk.waiter.wait(0) == set()
    os.write(write_end, b"x")
    assert desk.waiter.wait(PATIENCE_S) == desk.waiter.wait(0) == {"lifeline"}
    os.read(read_end, 1)
    assert desk.waiter.wait(0) == set()
    os.close(write_end)
    assert desk.waiter.wait(PATIENCE_S) == {"lifeline"}
    os.close(read_end)


def test_many_sockets_and_files_are_told_apart(desk):
    pipes = [os.pipe() for _ in range(FILES)]
    for number, (read_end, _) in enumerate(pipes):
        desk.waiter.add_file(f"file {number}", read_end)
        desk.pair(f"socket {number}")
    until_quiet(desk)
    for number in range(0, FILES, 7):
        os.write(pipes[number][1], b"x")
        desk.theirs[f"socket {number}"].send(b"x")
    expected = [f"{kind} {n}" for n in range(0, FILES, 7) for kind in ("file", "socket")]
    until(desk, *expected)
    for fd in (fd for pair in pipes for fd in pair):
        os.close(fd)


def test_closing_leaves_no_descriptor_and_no_owner_without_its_own():
    before = len(os.listdir("/proc/self/fd"))
    waiter = Waiter()
    read_end, write_end = os.pipe()
    waiter.add_file("pipe", read_end)
    waiter.close()
    os.write(write_end, b"x")
    assert os.read(read_end, 1) == b"x"
    for fd in (read_end, write_end):
        os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_reply_to_a_client_that_is_gone_counts_as_a_use_of_the_lane(desk, tmp_path):
    """It fails, and takes the next request's wake-up in all the same."""
    router = bind_router(desk.context, f"ipc://{tmp_path}/c", 1 << 20)
    dealer = desk.context.socket(zmq.DEALER)
    dealer.connect(f"ipc://{tmp_path}/c")
    desk.ours["client"], desk.theirs["client"] = router, dealer
    lane = ClientLane(router, CLUSTER)
    desk.waiter.add_socket("client", router)
    dealer.send_multipart(encode_write_request(write_of(SESSION)))
    until(desk, "client")
    attempts = 0
    while attempts == 0 or not desk.fd_is_silent("client"):
        lane.reply(b"gone", [b"answer"])
        attempts += 1
    assert (lane.dropped, lane.frames_out, lane.sends) == (attempts, 0, attempts)
    assert desk.waiter.wait(0) == set(), "a request waits, and nothing tells of it"
    desk.waiter.touched(("client",))
    assert desk.waiter.wait(PATIENCE_S) == {"client"}
    node = Node(1)
    node.lead_alone()
    lane.receive(node.multi)
    assert lane.requests == 1
