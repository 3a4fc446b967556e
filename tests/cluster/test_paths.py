import fcntl
import os
import socket
from pathlib import Path

import pytest

from cluster.exits import CommandError, Exit
from cluster.paths import (
    LOCK_FILE,
    FileLock,
    Holder,
    check_socket_paths,
    default_data_dir,
    list_runs,
    make_private,
    remove_leftover,
    remove_run_files,
    run_dir_of,
    run_root,
)

HOLDER = Holder(os.getpid(), "deck", "0" * 32, "/run/deck", "/data/deck")


def test_sockets_go_to_the_runtime_directory_or_to_a_private_temporary_one(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run_dir_of("deck", {"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path / "raftdeck" / "deck"
    own = tmp_path / f"raftdeck-{os.geteuid()}"
    for environment in ({}, {"XDG_RUNTIME_DIR": "relative"}, {"XDG_RUNTIME_DIR": "/no/such"}):
        assert run_root(environment) == own


def test_data_goes_to_the_state_directory():
    assert default_data_dir("deck", {"XDG_STATE_HOME": "/s"}) == Path("/s/raftdeck/clusters/deck")
    home = Path.home() / ".local/state/raftdeck/clusters/deck"
    assert default_data_dir("deck", {"XDG_STATE_HOME": "relative"}) == home


@pytest.mark.parametrize("name", ["..", "a/b", "", "-x", "A", "a.b", "x" * 33, "n\n"])
def test_a_name_that_could_leave_its_directory_is_refused(name):
    with pytest.raises(CommandError, match="cluster name"):
        run_dir_of(name)


def test_the_limit_of_socket_paths_is_the_kernels(tmp_path):
    """Bind a socket at the longest path that passes, and fail to at one byte more."""
    longest = Path("/tmp/" + "y" * (107 - len("/tmp//supervisor.control")))
    check_socket_paths(longest, 15)
    with pytest.raises(CommandError, match="108 bytes, 107 are possible") as caught:
        check_socket_paths(Path(f"{longest}z"), 15)
    assert caught.value.exit_code is Exit.UNFIT
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(FileNotFoundError):
        probe.bind(str(longest / "supervisor.control"))
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(OSError, match="too long"):
        probe.bind(f"{longest}z/supervisor.control")


def test_a_private_directory_is_made_and_recognised(tmp_path):
    make_private(tmp_path / "run")
    make_private(tmp_path / "run")
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


def test_a_directory_that_others_may_enter_is_refused(tmp_path):
    (tmp_path / "run").mkdir(mode=0o755)
    with pytest.raises(CommandError, match="open to others"):
        make_private(tmp_path / "run")


def test_a_symbolic_link_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "run").symlink_to(tmp_path / "real")
    with pytest.raises(CommandError, match="is not a directory"):
        make_private(tmp_path / "run")


def test_a_directory_of_another_user_is_refused(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setattr("os.geteuid", lambda: 4242)
    with pytest.raises(CommandError, match="belongs to user"):
        make_private(tmp_path / "run")


def test_a_lock_has_one_holder_and_says_who(tmp_path):
    first, second = FileLock(tmp_path / "L"), FileLock(tmp_path / "L")
    assert first.acquire(HOLDER)
    assert FileLock.is_held(tmp_path / "L")
    assert FileLock.read_holder(tmp_path / "L") == HOLDER
    assert not second.acquire(HOLDER, patience_s=0)
    first.release()
    assert not (tmp_path / "L").exists()
    assert not FileLock.is_held(tmp_path / "L")
    assert second.acquire(HOLDER, patience_s=0)
    second.release()


def test_a_lock_on_an_unlinked_file_is_not_believed(tmp_path):
    """Somebody opened the file, its holder unlinked and left: the lock must be on a new file."""
    path = tmp_path / "L"
    path.touch()
    lock = FileLock(path)
    real = fcntl.flock

    def unlink_between(descriptor, kind):
        path.unlink(missing_ok=True)
        real(descriptor, kind)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", unlink_between)
        assert not lock.acquire(HOLDER, patience_s=0)
    assert lock.acquire(HOLDER, patience_s=0)
    assert FileLock.is_held(path)
    lock.release()


def test_a_damaged_lock_file_names_nobody(tmp_path):
    for text in ("", "{", "[]", '{"pid": 1}'):
        (tmp_path / "L").write_text(text)
        assert FileLock.read_holder(tmp_path / "L") is None


def leave_a_run_directory(path):
    make_private(path.parent)
    make_private(path)
    (path / LOCK_FILE).write_text("")
    (path / "n1.json").write_text("{}")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path / "n1.admin"))


def test_a_dead_supervisors_directory_is_recognised_and_removed(desk):
    leave_a_run_directory(run_dir_of("dead"))
    [run] = list_runs()
    assert (run.name, run.alive, run.leftover) == ("dead", False, True)
    assert remove_leftover(run)
    assert list_runs() == []


def test_a_living_supervisors_directory_is_not_removed(desk):
    leave_a_run_directory(run_dir_of("deck"))
    lock = FileLock(run_dir_of("deck") / LOCK_FILE)
    assert lock.acquire(HOLDER)
    [run] = list_runs()
    assert (run.alive, run.leftover, run.holder) == (True, False, HOLDER)
    assert not remove_leftover(run)
    assert (run.path / "n1.admin").exists()
    lock.release()


def test_a_directory_without_a_lock_file_may_be_someone_starting(desk):
    make_private(run_root())
    make_private(run_dir_of("young"))
    [run] = list_runs()
    assert not run.leftover


def test_a_persons_file_in_a_run_directory_survives(desk):
    run_dir = run_dir_of("deck")
    leave_a_run_directory(run_dir)
    (run_dir / "notes.txt").write_text("mine")
    assert remove_run_files(run_dir) == ["notes.txt"]
    assert [path.name for path in run_dir.iterdir()] == ["notes.txt"]
