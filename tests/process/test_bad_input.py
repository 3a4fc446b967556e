"""Every wrong input that a person can give `raftdeck`: exit code, clear words, nothing broken."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.exits import Exit
from cluster.local import LocalCluster
from cluster.spec import ClusterSpec
from node.limits import KEY_BYTES_MAX, VALUE_BYTES_MAX
from tests.process.hand import PLANTED, SMALL

ROOT = Path(__file__).resolve().parents[2]
RAFTDECK = [sys.executable, "-c", "import sys; from dashboard.cli import main; sys.exit(main())"]
SEGMENTS = ("--segment-bytes", str(1 << 20), "--fill-step-bytes", str(64 << 10))


class Done:
    """A command that has ended."""

    def __init__(self, done: subprocess.CompletedProcess[bytes], seconds: float) -> None:
        self.code = done.returncode
        self.out = done.stdout
        self.err = done.stderr.decode()
        self.seconds = seconds
        assert "Traceback" not in self.err, self.err

    def must(self, code: Exit, *parts: str) -> Done:
        """It ended so, and said so in one last line that holds these parts."""
        assert self.code == code, (self.code, self.err)
        last = self.err.strip().splitlines()[-1] if self.err.strip() else ""
        for part in parts:
            assert part in last, self.err
        return self


def raftdeck(*arguments: object, stdin: bytes = b"", timeout_s: float = 40) -> Done:
    began = time.monotonic()
    done = subprocess.run(
        [*RAFTDECK, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=timeout_s,
        check=False,
        cwd=ROOT,
    )
    return Done(done, time.monotonic() - began)


@pytest.fixture
def deck(desk: Path) -> Iterator[LocalCluster]:
    """Three running nodes, small segments."""
    spec = ClusterSpec(name="deck", data_dir=desk / "data", nodes=3, wal=SMALL)
    with LocalCluster.launch(spec) as cluster:
        cluster.wait_ready()
        yield cluster


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where data directories are kept for the tests that spoil a copy of them."""
    return tmp_path_factory.mktemp("templates")


@pytest.fixture
def stopped(desk: Path, templates: Path) -> Callable[..., Path]:
    """Make the data directory of a cluster with some data, which was ended cleanly."""

    def make(name: str = "deck", nodes: int = 1) -> Path:
        data, template = desk / name, templates / f"{name}-{nodes}"
        if template.exists():
            shutil.copytree(template, data)
            return data
        spec = ClusterSpec(name=name, data_dir=data, nodes=nodes, wal=SMALL)
        with LocalCluster.launch(spec) as cluster:
            cluster.wait_ready()
            with cluster.client() as client:
                for number in range(5):
                    assert client.put(b"key %d" % number, b"value %d " % number * 300).code == 0
        shutil.copytree(data, template)
        return data

    return make


def hashes(data: Path) -> dict[str, str]:
    """What a refusal must leave as it was: all but logs and locks.

    Node 3, where there is one, is in good health, and runs until the others have refused.
    """
    return {
        str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(data.rglob("*"))
        if path.is_file()
        and not path.name.startswith(("LOCK", "node.log", "supervisor.log"))
        and not {data / "n3", data / "recording"} & set(path.parents)
    }


def living(desk: Path) -> list[str]:
    """Command lines of the processes that name the test's directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(desk) in command and state != "Z":
                found.append(command)
    return found


# --- a running cluster, wrong words ---------------------------------------------------


def test_wrong_selectors_names_keys_and_values(deck: LocalCluster, desk: Path) -> None:
    for selector in ("n9", "boss", "n1,n9"):
        done = raftdeck("node", "kill", selector).must(Exit.USAGE)
        assert "n1" in done.err
        assert "n3" in done.err
        assert "leader" in done.err
    raftdeck("node", "explode", "n1").must(Exit.USAGE, "kill")
    raftdeck("fly").must(Exit.USAGE, "status")
    raftdeck("status", "--cluster", "nobody").must(Exit.NO_CLUSTER, "nobody", "deck")
    raftdeck("status", "--cluster", desk / "nowhere").must(Exit.NO_CLUSTER, "nowhere", "deck")
    assert raftdeck("kv", "put", "k", "v").code == 0

    longest = "k" * KEY_BYTES_MAX
    raftdeck("kv", "put", longest + "k", "v").must(Exit.USAGE, str(KEY_BYTES_MAX))
    raftdeck("kv", "put", "", "v").must(Exit.USAGE, str(KEY_BYTES_MAX))
    raftdeck("kv", "get", longest + "k").must(Exit.USAGE, str(KEY_BYTES_MAX))
    largest = os.urandom(VALUE_BYTES_MAX)
    raftdeck("kv", "put", "k", stdin=largest + b"x").must(Exit.USAGE, str(VALUE_BYTES_MAX))
    assert raftdeck("kv", "get", "k").out == b"v", "what was refused changed nothing"
    assert raftdeck("kv", "put", longest, stdin=largest).code == 0
    assert raftdeck("kv", "get", longest).out == largest
    raftdeck("kv", "get", "absent").must(Exit.FAILED, "absent")
    assert len(deck.wait_ready().nodes) == 3


def test_a_directory_or_name_in_use_is_unfit_and_its_cluster_goes_on(
    deck: LocalCluster, desk: Path
) -> None:
    before = hashes(desk / "data")
    same = raftdeck("up", "-d", "-n", "3", "--name", "deck", "--data", desk / "data")
    same.must(Exit.UNFIT, "deck", "raftdeck down")
    other = raftdeck("up", "-d", "-n", "3", "--name", "other", "--data", desk / "data")
    other.must(Exit.UNFIT, str(desk / "data"))
    elsewhere = raftdeck("up", "-d", "-n", "3", "--name", "deck", "--data", desk / "data2")
    elsewhere.must(Exit.UNFIT, "deck")
    assert hashes(desk / "data") == before
    assert raftdeck("kv", "put", "k", "v").code == 0


def test_without_a_quorum_a_put_ends_in_time_and_says_what_became_of_it(
    deck: LocalCluster,
) -> None:
    assert raftdeck("kv", "put", "k", "before").code == 0
    assert raftdeck("node", "kill", "n1,n2").code == 0
    done = raftdeck("kv", "put", "k", "lost", "--timeout", "2").must(Exit.NO_QUORUM)
    assert "applied" in done.err, "definite or indefinite"
    assert "raftdeck status" in done.err
    assert 1.5 < done.seconds < 2 + 6
    done = raftdeck("kv", "get", "k", "--timeout", "1").must(Exit.NO_QUORUM)
    assert done.seconds < 1 + 6
    assert raftdeck("kv", "get", "k", "--local", "--node", "n3").out in (b"before", b"lost", b"")
    assert raftdeck("node", "start", "n1,n2").code == 0
    assert raftdeck("kv", "get", "k", "--timeout", "15").out in (b"before", b"lost")
    assert raftdeck("kv", "put", "k", "after", "--timeout", "15").code == 0
    assert raftdeck("kv", "get", "k").out == b"after"


def test_no_cluster_at_all() -> None:
    raftdeck("status").must(Exit.NO_CLUSTER, "no cluster is running", "raftdeck up")
    raftdeck("kv", "put", "k", "v").must(Exit.NO_CLUSTER, "raftdeck up")
    raftdeck("down").must(Exit.NO_CLUSTER)
    raftdeck("node", "kill", "leader").must(Exit.NO_CLUSTER)


# --- data directories that are wrong --------------------------------------------------


def refused_up(data: Path, name: str, nodes: int, code: Exit, *parts: str) -> Done:
    """`up` refuses, names these, changes no data and leaves nothing running."""
    before = hashes(data)
    done = raftdeck("up", "-d", "-n", nodes, "--name", name, "--data", data, *SEGMENTS)
    done.must(code, *parts)
    assert hashes(data) == before
    assert living(data.parent) == []
    return done


def damage(segment: Path, what: bytes) -> int:
    data = bytearray(segment.read_bytes())
    place = data.index(what)
    data[place] ^= 1
    segment.write_bytes(data)
    return place


def test_a_damaged_segment_fails_and_is_named_with_its_byte(stopped: Callable[..., Path]) -> None:
    data = stopped()
    place = damage(data / "n1" / "wal" / "00000001.wal", b"value 2 ")
    done = refused_up(data, "deck", 1, Exit.FAILED, "00000001.wal", "byte", "raftdeck wal verify")
    named = int(done.err.split("byte ")[1].split(":")[0].split()[0])
    assert named <= place < named + 4_096


def test_the_directories_of_two_nodes_exchanged_are_a_usage_error(
    stopped: Callable[..., Path],
) -> None:
    data = stopped(nodes=3)
    (data / "n1").rename(data / "spare")
    (data / "n2").rename(data / "n1")
    (data / "spare").rename(data / "n2")
    refused_up(data, "deck", 3, Exit.USAGE, "belongs to node", "under their own names")


def test_a_node_directory_of_another_cluster_is_a_usage_error(stopped: Callable[..., Path]) -> None:
    data, other = stopped("deck"), stopped("other")
    shutil.rmtree(data / "n1")
    shutil.copytree(other / "n1", data / "n1")
    refused_up(data, "deck", 1, Exit.USAGE, "belongs to cluster")


def test_a_cluster_directory_under_another_name_or_size_is_a_usage_error(
    stopped: Callable[..., Path],
) -> None:
    data = stopped()
    refused_up(data, "other", 1, Exit.USAGE, "name = deck", "not other")
    refused_up(data, "deck", 3, Exit.USAGE, "nodes = 1", "not 3")


def test_a_directory_that_holds_something_else_is_a_usage_error(desk: Path) -> None:
    data = desk / "precious"
    data.mkdir()
    (data / "letter.txt").write_text("precious")
    refused_up(data, "deck", 1, Exit.USAGE, "letter.txt", "empty directory")


@pytest.mark.parametrize("name", ["CLUSTER.json", "n1/IDENTITY.json"])
def test_a_newer_format_is_unfit_and_says_what_to_do(
    stopped: Callable[..., Path], name: str
) -> None:
    data = stopped()
    document = json.loads((data / name).read_text())
    (data / name).write_text(json.dumps(document | {"format": 9}))
    refused_up(data, "deck", 1, Exit.UNFIT, name, "9 is newer", "update raftdeck")


# --- a full disk ----------------------------------------------------------------------


def test_a_full_disk_refuses_puts_answers_gets_and_loses_nothing(desk: Path) -> None:
    flag = desk / "full"
    spec = ClusterSpec(
        name="deck",
        data_dir=desk / "data",
        nodes=3,
        wal=SMALL,
        entry_module="full_disk_node",
        entry_paths=(PLANTED,),
        entry_options={"full_flag": str(flag)},
    )
    filler = os.urandom(200_000)
    with LocalCluster.launch(spec) as cluster:
        cluster.wait_ready()
        assert raftdeck("kv", "put", "kept", "safe").code == 0
        flag.touch()
        acked = 0
        for number in range(10):
            done = raftdeck("kv", "put", f"k{number}", "--timeout", "2", stdin=filler)
            if done.code != 0:
                break
            acked += 1
        cluster.wait_for(lambda frame: all(n.snapshot.wal.disk_full for n in frame.nodes), 15)  # type: ignore[union-attr]  # all run
        for _ in range(3):
            refused = raftdeck("kv", "put", "refused", "x", "--timeout", "4")
            refused.must(Exit.FAILED, "disk", "not applied")
            assert refused.seconds < 4
        assert raftdeck("kv", "get", "kept").out == b"safe"
        flag.unlink()
        deadline = time.monotonic() + 15
        while raftdeck("kv", "put", "again", "works", "--timeout", "4").code != 0:
            assert time.monotonic() < deadline
        assert raftdeck("kv", "get", "again").out == b"works"
        raftdeck("kv", "get", "refused").must(Exit.FAILED, "absent")
        for number in range(acked):
            assert raftdeck("kv", "get", f"k{number}").out == filler
        cluster.kill("all")
        cluster.start("all")
        cluster.wait_ready()
        assert raftdeck("kv", "get", "kept").out == b"safe"
        assert raftdeck("kv", "get", "again").out == b"works"


# --- Ctrl-C ---------------------------------------------------------------------------


def leftovers(desk: Path) -> list[str]:
    """Sockets, locks that are held, and files of the run directory."""
    return [str(path.relative_to(desk)) for path in (desk / "raftdeck").rglob("*")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_a_foreground_cluster_and_leaves_its_data_alone(
    desk: Path, number: signal.Signals
) -> None:
    data = desk / "data"
    command = [*RAFTDECK, "up", "-n", "3", "--data", str(data), *SEGMENTS]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as up:
        assert up.stdout is not None
        assert up.stderr is not None
        assert "leads" in up.stdout.readline()
        assert raftdeck("kv", "put", "k", "kept").code == 0
        assert len(living(desk)) >= 4
        up.send_signal(number)
        words = up.stderr.read()
        assert up.wait(40) == Exit.INTERRUPTED, words
    assert words.strip().splitlines()[-1].endswith(str(data))
    assert living(desk) == []
    assert leftovers(desk) == []
    assert not (data / "LOCK").exists()
    assert raftdeck("up", "-d", "-n", "3", "--data", data, *SEGMENTS).code == 0
    assert raftdeck("kv", "get", "k").out == b"kept"
    assert raftdeck("down").code == 0
