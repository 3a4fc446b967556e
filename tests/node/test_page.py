"""The status page: what is written is read once; what is half done or torn is not believed."""

import os

import pytest

from node.page import PAGE_BYTES, PageError, PageReader, PageWriter, Written
from node.raft.state import FOREVER


@pytest.fixture
def pages():
    reader = PageReader()
    writer = PageWriter(reader.descriptor)
    yield reader, writer
    writer.close()
    reader.close()


def test_what_is_written_is_read_once(pages):
    reader, writer = pages
    assert reader.read() is None
    reader.want(100, 7)
    writer.write(lambda since: b"since %d" % since, 5)
    assert reader.read() == Written(5, b"since 7")
    assert reader.read() is None
    writer.write(lambda _: b"", 6)
    assert reader.read() == Written(6, b"")
    assert reader.at_ns == 6


def test_nothing_is_due_until_it_is_wanted_and_no_more_when_it_is_not(pages):
    reader, writer = pages
    assert writer.next_ns == FOREVER
    reader.want(100, 0)
    assert writer.next_ns == 100
    writer.write(lambda _: b"x", 1_000)
    assert writer.next_ns == 1_100
    reader.want(0, 0)
    assert writer.next_ns == FOREVER


def test_a_page_that_is_being_written_is_read_later(pages):
    reader, writer = pages
    writer.write(lambda _: b"first", 1)
    half_done = []

    def look(_):
        half_done.append(reader.read())
        return b"second"

    writer.write(look, 2)
    assert half_done == [Written(1, b"first")], "before the first byte the old one stands"
    writer._words[3] += 1
    assert reader.read() is None, "odd"
    writer._words[3] -= 1
    assert reader.read() == Written(2, b"second")


def test_a_torn_payload_is_not_believed_and_the_next_one_is(pages):
    reader, writer = pages
    writer.write(lambda _: b"whole", 1)
    writer._map[64] ^= 1
    assert reader.read() is None
    writer._map[64] ^= 1
    assert reader.read() == Written(1, b"whole"), "it was not taken"
    writer._words[5] = PAGE_BYTES
    writer._words[3] += 2
    assert reader.read() is None, "longer than the page"
    writer.write(lambda _: b"next", 2)
    assert reader.read() == Written(2, b"next")


def test_what_does_not_fit_leaves_the_page_and_is_not_tried_again_at_once(pages):
    reader, writer = pages
    reader.want(100, 0)
    writer.write(lambda _: b"fits", 1)
    writer.write(lambda _: bytes(PAGE_BYTES - 64), 50)
    assert reader.read().at_ns == 50, "the last one that fits"
    writer.write(lambda _: bytes(PAGE_BYTES - 63), 200)
    assert reader.read() is None
    assert reader.at_ns == 50
    assert writer.next_ns == 300


def test_a_descriptor_of_something_else_is_refused(tmp_path):
    with pytest.raises(PageError, match="no status page"):
        PageWriter(-1)
    for size in (0, PAGE_BYTES):
        path = tmp_path / f"{size}"
        path.write_bytes(bytes(size))
        descriptor = os.open(path, os.O_RDWR)
        try:
            with pytest.raises(PageError, match="no status page"):
                PageWriter(descriptor)
        finally:
            os.close(descriptor)
