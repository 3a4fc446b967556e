"""Short ways to write a history."""

import pytest

from cluster.check.formats import read_history


@pytest.fixture
def log():
    """Read a history written as `process :type :f value` lines, indented at will."""

    def read(text):
        return read_history("\n".join(line.strip() for line in text.splitlines()).encode())

    return read
