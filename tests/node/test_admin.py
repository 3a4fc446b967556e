import random

import msgpack
import pytest
import zmq

from node.admin import (
    AdminError,
    AdminLane,
    AdminPool,
    Malformed,
    Reply,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)


@pytest.fixture
def context():
    with zmq.Context() as context:
        yield context


@pytest.fixture
def router(context, tmp_path):
    socket = context.socket(zmq.ROUTER)
    socket.linger = 0
    socket.bind(f"ipc://{tmp_path}/n1.admin")
    yield socket
    socket.close()


@pytest.fixture
def pool(context, tmp_path):
    pool = AdminPool(context, {n: f"ipc://{tmp_path}/n{n}.admin" for n in (1, 2)})
    yield pool
    pool.close()


def ask(pool, node, verb, args=None):
    """Send as soon as the connection stands; ZeroMQ connects in its own time."""
    [socket] = [s for n, s in pool._sockets.items() if n == node]
    assert socket.poll(5000, zmq.POLLOUT)
    number = pool.request(node, verb, args)
    assert number is not None
    return number


def serve_one(lane, router):
    assert router.poll(5000)
    assert lane.handle_ready() == 1


def reply_of(pool):
    poller = zmq.Poller()
    for socket in pool.sockets():
        poller.register(socket, zmq.POLLIN)
    assert poller.poll(5000)
    [answer] = pool.receive()
    return answer


def test_a_node_answers_by_request_id(router, pool):
    lane = AdminLane(router, {"status": lambda args: {"echo": args["x"]}})
    number = ask(pool, 1, "status", {"x": 5})
    serve_one(lane, router)
    answer = reply_of(pool)
    assert (answer.node, answer.reply) == (1, Reply(number, True, {"echo": 5}))
    assert lane.requests == 1


def test_an_unknown_verb_and_a_refusal_are_answered_with_a_text(router, pool):
    def refuse(args):
        raise AdminError("not now")

    lane = AdminLane(router, {"stop": refuse})
    ask(pool, 1, "status")
    serve_one(lane, router)
    assert reply_of(pool).reply.payload == "no verb 'status'; known are: stop"
    ask(pool, 1, "stop")
    serve_one(lane, router)
    reply = reply_of(pool).reply
    assert (reply.ok, reply.payload) == (False, "not now")


def test_a_request_to_a_dead_node_is_refused_at_once(pool):
    assert pool.request(2, "status") is None
    assert list(pool.receive()) == []


def test_malformed_frames_are_counted_and_not_answered(router, context, tmp_path, pool):
    lane = AdminLane(router, {"status": lambda args: None})
    rng = random.Random(1)
    frames = [rng.randbytes(rng.randrange(0, 60)) for _ in range(200)]
    with context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(f"ipc://{tmp_path}/n1.admin")
        for frame in frames:
            socket.send(frame)
        socket.send_multipart([b"a", b"b"])
        while lane.malformed < len(frames) + 1:
            assert router.poll(5000)
            lane.handle_ready()
        assert not socket.poll(0)
    assert lane.requests == 0
    ask(pool, 1, "status")
    serve_one(lane, router)
    assert reply_of(pool).reply.ok


def test_a_turn_takes_a_bounded_number_of_requests(router, pool):
    lane = AdminLane(router, {"status": lambda args: None})
    for _ in range(20):
        ask(pool, 1, "status")
    taken: list[int] = []
    while sum(taken) < 20:
        assert router.poll(5000)
        taken.append(lane.handle_ready())
    assert max(taken) <= 16


@pytest.mark.parametrize(
    "document",
    [
        [1, 2, "status"],
        [2, 2, "status", {}],
        [1, -1, "status", {}],
        [1, True, "status", {}],
        [1, 2, 3, {}],
        [1, 2, "x" * 65, {}],
        [1, 2, "status", []],
        [1, 2, "status", {1: 2}],
        [1, 2, "status", {"x": msgpack.ExtType(1, b"x")}],
        {"a": 1},
        7,
    ],
)
def test_what_is_no_request_is_malformed(document):
    with pytest.raises(Malformed):
        decode_request(msgpack.packb(document))


def test_codecs_round_trip_and_refuse_trailing_bytes():
    request = decode_request(encode_request(9, "stop", {"a": b"b"}))
    assert (request.number, request.verb, request.args) == (9, "stop", {"a": b"b"})
    frame = encode_reply(Reply(9, True, [1, None]))
    assert decode_reply(frame) == Reply(9, True, [1, None])
    for wrong in (frame + b"\x00", frame[:-1], b"", msgpack.packb([1, 9, 1, None])):
        with pytest.raises(Malformed):
            decode_reply(wrong)


def test_a_deeply_nested_frame_is_malformed():
    with pytest.raises(Malformed):
        decode_request(b"\x91" * 10_000)
