"""A log on a real ext4 whose power is cut: on an image behind a loop device (issue 5).

What the tests' own disks model, a file system does here: names, sizes and blocks that were not synced
are not on the device. The log must hold what it acknowledged all the same, and without its syncs it
must not: else the pictures would prove nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.process.looped_log import PICTURES_OF_A_POINT
from tests.wal.support import ROOT
from wal.faults import OPERATIONS

IMAGE_BYTES = 32 << 20
WAIT_S = 120
NAMESPACE = ("unshare", "--mount", "--propagation", "private")
"""Mounts in it end with the process, and with them their loop devices: however that process ends."""
TOOLS = ("mkfs.ext4", "mount", "umount", "unshare", "losetup", "cp")

pytestmark = pytest.mark.timeout(400)


def needed() -> str:
    """Return why images cannot be mounted here, if that shows at once."""
    if os.geteuid():
        return "only root mounts an image"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"not installed: {', '.join(missing)}"
    return "" if Path("/dev/loop-control").exists() else "there are no loop devices"


def looped(*arguments: str | Path) -> list[str | Path]:
    return [*NAMESPACE, sys.executable, "-m", "tests.process.looped_log", *arguments]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory with an empty ext4 image that can be mounted.

    In memory where that is possible: the device is what it was sent, its speed proves nothing.
    """
    if reason := needed():
        pytest.skip(reason)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    with TemporaryDirectory("", "raftdeck-loop-", memory, ignore_cleanup_errors=True) as directory:
        prepare(Path(directory))
        yield Path(directory)


def prepare(place: Path) -> None:
    """Make an image, and see that it can be mounted; skip where it cannot."""
    image = place / "image"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    run(["mkfs.ext4", "-q", "-F", "-J", "size=4", image])
    trial = [*NAMESPACE, "mount", "-o", "loop", str(image)]
    (place / "disk").mkdir()
    tried = subprocess.run([*trial, place / "disk"], capture_output=True, text=True, check=False)
    if tried.returncode:
        reason, *_ = tried.stderr.splitlines() or ["no reason was given"]
        pytest.skip(f"an image cannot be mounted here: {reason}")


def run(command: list[str | Path]) -> list[dict[str, Any]]:
    """Run to the end; return the lines of JSON that it printed."""
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def devices_of(image: Path) -> str:
    return subprocess.run(
        ["losetup", "-j", image], capture_output=True, text=True, check=True
    ).stdout


def wait_for_no_device(image: Path) -> None:
    """Wait until the last process of the namespace is gone, and the kernel has let the device go."""
    deadline, pause = time.monotonic() + WAIT_S, threading.Event()
    while left := devices_of(image):
        assert time.monotonic() < deadline, left
        pause.wait(0.05)


def judged(place: Path, *options: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the pictures of a run, each with what the log in it holds."""
    pictures = run(looped("record", place, *options))
    verdicts = run(looped("judge", place))
    assert [each["name"] for each in pictures] == [each["name"] for each in verdicts]
    assert all(verdict["replays"] for verdict in verdicts), (
        "each was taken of a mounted file system"
    )
    return list(zip(pictures, verdicts, strict=True))


def test_a_log_on_ext4_holds_what_it_acknowledged_when_the_power_is_cut(place: Path) -> None:
    pairs = judged(place)
    points = {f"{operation}.{moment}" for operation in OPERATIONS for moment in ("before", "after")}
    assert {picture["point"] for picture, _ in pairs} == points
    assert len(pairs) == PICTURES_OF_A_POINT * len(points)
    behind = 0
    for picture, verdict in pairs:
        assert "refused" not in verdict, (picture, verdict)
        owed, first, last = picture["owed"], verdict["first"], verdict["last"]
        assert owed["acked"] <= last <= owed["given"], (picture, verdict)
        assert owed["released"] <= first - 1 <= max(0, owed["releasing"]), (picture, verdict)
        assert verdict["last_then"] == last + 5, (picture, verdict)
        behind += last < owed["given"]
    assert behind, "no picture caught the log between a write and its sync"
    wait_for_no_device(place / "image")


def test_without_syncs_ext4_loses_what_was_acknowledged(place: Path) -> None:
    """The control: the same pictures of a log whose syncs do nothing."""
    pairs = judged(place, "--unsynced")
    lost = [
        picture["name"]
        for picture, verdict in pairs
        if "refused" in verdict or verdict["last"] < picture["owed"]["acked"]
    ]
    owing = [picture["name"] for picture, _ in pairs if picture["owed"]["acked"]]
    assert len(owing) >= len(pairs) // 2
    assert len(lost) >= len(owing) // 2, (len(lost), len(owing), len(pairs))


def test_a_killed_recorder_leaves_no_mount_and_no_loop_device(place: Path) -> None:
    recorder = subprocess.Popen(looped("record", place), cwd=ROOT, stdout=subprocess.PIPE)
    assert recorder.stdout is not None
    try:
        assert recorder.stdout.readline(), "it ended before its first picture"
        assert devices_of(place / "image")
    finally:
        recorder.kill()
        recorder.wait(WAIT_S)
        recorder.stdout.close()
    wait_for_no_device(place / "image")
