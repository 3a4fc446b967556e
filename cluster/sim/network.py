"""Directed links that lose, delay, duplicate, reorder, and are cut. Frames are opaque values.

A cut link drops what is sent while it is cut and what would arrive while it is cut. Frames between
two endpoints keep their order per lane where the profile says so (as ZeroMQ does); otherwise each
frame's own delay decides, which is more than any real transport does to us.

Clients stand at negative endpoints. Their links lose and delay, and neither reorder nor duplicate:
that a refusal is definite rests on a request frame arriving at most once, which ZeroMQ promises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster.sim.heap import EventHeap
from cluster.sim.rng import Stream

__all__ = ["Link", "LinkProfile", "Network"]

Deliver = Callable[[int, int, object], None]
"""Called with (source, target, frame)."""

_SLOW_ONE_IN = 64
"""One frame in so many meets a queue and takes `delay_tail` longer."""


@dataclass(frozen=True, slots=True)
class LinkProfile:
    """How all links of a world behave without faults. Delays in ns, loss in permille."""

    delay_min: int = 50_000
    delay_spread: int = 200_000
    delay_tail: int = 5_000_000
    loss: int = 0
    duplication: int = 0
    in_order: bool = False


class Link:
    """One direction between two endpoints. Faults change `cuts`, `loss` and `extra_delay`."""

    __slots__ = (
        "corruption", "cuts", "duplicates", "extra_delay", "in_order", "last_arrival", "loss",
        "stream",
    )  # fmt: skip

    def __init__(self, stream: Stream, duplicates: int, in_order: bool) -> None:
        self.stream = stream
        self.duplicates = duplicates
        self.in_order = in_order
        self.cuts = 0
        """How many faults cut this link at present."""
        self.loss = 0
        self.corruption = 0
        """Permille of the frames that arrive with one bit flipped."""
        self.extra_delay = 0
        self.last_arrival: dict[bool, int] = {}


class Network:
    """All links of a world."""

    def __init__(self, heap: EventHeap, seed: int, profile: LinkProfile, deliver: Deliver) -> None:
        """Deliver frames through `deliver`, at their time."""
        self.sent = 0
        self.dropped = 0
        self._heap = heap
        self._seed = seed
        self._profile = profile
        self._deliver = deliver
        self._links: dict[tuple[int, int], Link] = {}

    def link(self, source: int, target: int) -> Link:
        """Return the link from `source` to `target`."""
        link = self._links.get((source, target))
        if link is None:
            client = source < 0 or target < 0
            profile = self._profile
            link = Link(
                Stream(self._seed, "link", source, target),
                0 if client else profile.duplication,
                client or profile.in_order,
            )
            self._links[source, target] = link
        return link

    def heal(self) -> None:
        """End every fault of every link, and the profile's loss: what is sent arrives."""
        for link in self._links.values():
            link.cuts = link.loss = link.extra_delay = link.duplicates = link.corruption = 0
        profile = self._profile
        self._profile = LinkProfile(
            profile.delay_min, profile.delay_spread, profile.delay_tail, in_order=profile.in_order
        )

    def send(self, source: int, target: int, frame: object, bulk: bool = False) -> None:
        """Send a frame; `bulk` frames have a lane of their own."""
        self.sent += 1
        link = self.link(source, target)
        if link.cuts:
            self.dropped += 1
            return
        profile = self._profile
        bits = link.stream.bits()
        if (bits & 0x3FF) < (profile.loss + link.loss) * 1024 // 1000:
            self.dropped += 1
            return
        if link.corruption and link.stream.chance(link.corruption):
            frame = flipped(frame, link.stream)
            if frame is None:
                self.dropped += 1
                return
        self._schedule(source, target, frame, bits >> 10, bulk)
        if link.duplicates and (bits >> 54) < link.duplicates * 1024 // 1000:
            self._schedule(source, target, frame, link.stream.bits() >> 10, bulk)

    def _schedule(self, source: int, target: int, frame: object, bits: int, bulk: bool) -> None:
        profile = self._profile
        link = self._links[source, target]
        delay = profile.delay_min + (bits & 0xFFFFF) * profile.delay_spread // 0xFFFFF
        if (bits >> 20) % _SLOW_ONE_IN == 0:
            delay += (bits >> 28 & 0xFFFF) * profile.delay_tail // 0xFFFF
        if link.extra_delay:
            delay += (bits >> 26 & 0xFFFF) * link.extra_delay // 0xFFFF
        arrival = self._heap.now + delay
        if link.in_order:
            arrival = max(arrival, link.last_arrival.get(bulk, 0))
            link.last_arrival[bulk] = arrival
        self._heap.at(arrival, self._arrive, link, source, target, frame)

    def _arrive(self, link: Link, source: int, target: int, frame: object) -> None:
        if link.cuts:
            self.dropped += 1
            return
        self._deliver(source, target, frame)


def flipped(frame: object, stream: Stream) -> object | None:
    """Return a frame with one bit flipped; None for a value that has no bytes: its CRC fails."""
    if not isinstance(frame, list):
        return None
    parts = [bytes(part) for part in frame]
    at = stream.below(max(1, sum(map(len, parts))) * 8)
    for number, part in enumerate(parts):
        if at < len(part) * 8:
            whole = bytearray(part)
            whole[at // 8] ^= 1 << at % 8
            return [*parts[:number], bytes(whole), *parts[number + 1 :]]
        at -= len(part) * 8
    return parts
