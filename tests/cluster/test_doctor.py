import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import doctor
from cluster.cli import main
from cluster.doctor import CHECKS, Finding, document, examine, judge_packages
from cluster.paths import LOCK_FILE, make_private, run_dir_of, run_root

ROOT = Path("/nowhere/raftdeck")


def finding(name, data_dir):
    return CHECKS[name](name, data_dir)


def test_this_machine_is_examined_in_every_respect(desk, tmp_path):
    findings = examine(tmp_path / "not" / "yet" / "there")
    assert [found.name for found in findings] == list(CHECKS)
    unfit = [found for found in findings if found.verdict == "unfit"]
    assert not unfit, unfit
    assert document(findings)["fit"] is True
    assert not list(tmp_path.iterdir()), "the examination leaves nothing behind"


def test_the_fsync_probe_reports_what_it_measured(tmp_path):
    found = finding("fsync", tmp_path)
    median = float(found.found.partition("median ")[2].partition(" ms")[0])
    assert 0 < median < 10_000


def test_packages_of_another_distribution_are_named():
    origins = {name: f"{ROOT}/{name}/__init__.py" for name in ("cluster", "node", "wal")}
    assert judge_packages("packages", ROOT, origins).verdict == "fit"
    clash = judge_packages("packages", ROOT, origins | {"node": "/else/node/__init__.py"})
    assert clash.verdict == "unfit"
    assert "'node' comes from /else/node/__init__.py" in clash.found
    assert "environment of its own" in clash.remedy
    assert judge_packages("packages", ROOT, {"wal": None}).verdict == "unfit"


def test_a_module_search_path_that_hides_a_package_is_found(tmp_path, monkeypatch):
    """A real clash: a `wal` package that PYTHONPATH puts before ours, in a child of its own."""
    (tmp_path / "wal").mkdir()
    (tmp_path / "wal" / "__init__.py").write_text("")
    monkeypatch.setattr(
        doctor, "module_environment", lambda: os.environ | {"PYTHONPATH": str(tmp_path)}
    )
    found = finding("packages", tmp_path)
    assert found.verdict == "unfit"
    assert str(tmp_path) in found.found or "is not found" in found.found


def test_a_leftover_run_directory_is_shown(desk, tmp_path):
    assert finding("leftover run directories", tmp_path).verdict == "fit"
    make_private(run_root())
    make_private(run_dir_of("dead"))
    (run_dir_of("dead") / LOCK_FILE).write_text("")
    found = finding("leftover run directories", tmp_path)
    assert (found.verdict, found.found) == ("unusual", "left over: dead")


def test_a_runtime_directory_that_is_too_deep_is_unfit(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 80)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    [found] = [f for f in examine(tmp_path) if f.name == "run directory"]
    assert found.verdict == "unfit"
    assert "107 are possible" in found.found


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm to look at")
def test_a_file_system_in_memory_is_unusual():
    assert finding("file system", Path("/dev/shm/x")).verdict == "unusual"


def test_the_checksum_in_use_is_named(tmp_path):
    from wal import checksum

    found = finding("checksum", tmp_path)
    assert found.found.startswith(checksum.active())
    assert "GB/s" in found.found


def test_a_check_that_breaks_is_unfit_and_says_how(tmp_path, monkeypatch):
    def broken(name, data_dir):
        raise OSError(38, "Function not implemented")

    monkeypatch.setitem(doctor.CHECKS, "pidfd", broken)
    [found] = [f for f in examine(tmp_path) if f.name == "pidfd"]
    assert found == Finding("pidfd", "unfit", "OSError: [Errno 38] Function not implemented")


def test_the_verb_exits_with_4_on_an_unfit_machine(desk, tmp_path, monkeypatch, capsys):
    assert main(["doctor", "--data", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "raftdeck.doctor/1"
    unfit = Finding("prctl", "unfit", "not there", "another kernel")
    monkeypatch.setitem(doctor.CHECKS, "prctl", lambda name, data_dir: unfit)
    assert main(["doctor", "--data", str(tmp_path)]) == 4
    captured = capsys.readouterr()
    assert "not there" in captured.out
    assert "prctl: another kernel" in captured.err


def test_doctor_runs_where_zmq_is_missing(tmp_path):
    """The one who needs a doctor may lack a library: it is named, not a traceback."""
    program = (
        "import sys; sys.modules['zmq'] = None; from cluster.cli import main;"
        "sys.exit(main(['doctor', '--json']))"
    )
    from cluster.processes import module_environment

    answer = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env=module_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 4, answer.stderr
    checks = {check["name"]: check for check in json.loads(answer.stdout)["checks"]}
    assert checks["libraries"]["verdict"] == "unfit"
    assert "zmq" in checks["libraries"]["found"]
