"""The command line without a cluster: help, settings, errors and exit codes."""

import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

import cluster.cli_status
from cluster.cli import VERBS, main, raftdeck
from cluster.exits import CommandError, Exit, exit_of_node
from cluster.processes import module_environment
from cluster.settings import SETTINGS
from node.exits import NodeExit
from node.limits import KEY_BYTES_MAX, VALUE_BYTES_MAX

SLOW = {"zmq", "psutil", "msgpack", "textual", "wal", "asyncio", "subprocess"}
ELSEWHERE = {"demo"}
"""Verbs that other modules declare, and test."""


@pytest.fixture
def call(desk, capfd):
    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


def commands(command, path=("raftdeck",)):
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if len(path) > 1 or name not in ELSEWHERE:
                yield from commands(command.get_command(context, name), (*path, name))


ALL = list(commands(raftdeck))


# --- help -----------------------------------------------------------------------------


def test_the_table_of_verbs_is_the_documented_one():
    documented = (
        ["demo", "up", "down", "ls", "status", "node", "disk", "leader", "kv", "load", "sim", "bench", "check", "logs", "replay", "export", "mark", "runs", "wal", "doctor", "config"]
    )  # fmt: skip
    assert list(VERBS) == documented
    kv = {path[2] for path, _ in ALL if path[:2] == ("raftdeck", "kv") and len(path) == 3}
    assert kv == {"put", "get", "del", "range", "cas"}


@pytest.mark.parametrize(("path", "command"), ALL[1:], ids=[" ".join(p) for p, _ in ALL[1:]])
def test_every_verb_helps_with_an_example(path, command):
    context = click.Context(command, info_name=path[-1])
    text = command.get_help(context)
    assert f"  {' '.join(path)}" in text.partition("Example:")[2]
    assert command.get_short_help_str()
    assert " RANGE" not in text, "click's word; give the option a metavar"
    cut = [line for line in text.splitlines()[1:] if line.endswith("...")]
    assert cut == [], "a first sentence is too long for its line"
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{option.name} explains nothing"


def test_data_verbs_have_json_and_cluster_verbs_have_cluster():
    without_json = {"logs", "path", "export"}
    without_cluster = {"up", "ls", "doctor", "path", "sim", "check"}
    of_runs = {"replay", "export", "runs"}
    for path, command in ALL:
        if isinstance(command, click.Group) or path[1] in {"wal", "bench"}:
            continue  # the log has a parser of its own; a bench makes clusters of its own
        options = {name for parameter in command.params for name in parameter.opts}
        assert "--debug" in options
        assert ("--json" in options) == (path[-1] not in without_json), path
        wanted = path[-1] not in without_cluster and path[1] not in of_runs
        assert ("--cluster" in options) == wanted, path


def test_help_imports_no_verb_and_nothing_slow():
    program = (
        "import sys; from cluster.cli import main; code = main(['--help']);"
        "print(code, *sorted({name.partition('.')[0] for name in sys.modules}),"
        " *[name for name in sys.modules if name.startswith('cluster.cli_')], file=sys.stderr)"
    )
    answer = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env=module_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = answer.stderr.split()
    assert loaded[0] == "0"
    assert not SLOW & set(loaded)
    assert [name for name in loaded if name.startswith("cluster.cli_")] == ["cluster.cli_support"]
    assert all(name in answer.stdout for name in VERBS)


def test_help_is_quick():
    """The limit is 0.3 s, warm; the best of a few, for the machine may be busy."""
    command = [sys.executable, "-P", "-m", "cluster.cli", "--help"]
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(command, env=module_environment(), capture_output=True, check=True)
        times.append(time.perf_counter() - started)
    assert min(times) <= 0.3


# --- settings -------------------------------------------------------------------------


def settings(call, *arguments):
    code, out, _ = call(*arguments, "config", "show", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["schema"] == "raftdeck.config/1"
    return {name: (s["value"], s["source"]) for name, s in document["settings"].items()}


def test_a_setting_comes_from_flag_environment_file_or_default_in_that_order(
    call, tmp_path, monkeypatch
):
    path = tmp_path / "raftdeck.toml"
    path.write_text('nodes = 5\ngroups = 2\nheartbeat-ms = 20\nname = "filed"\n')
    monkeypatch.setenv("RAFTDECK_GROUPS", "4")
    monkeypatch.setenv("RAFTDECK_NAME", "surrounded")
    code, out, _ = call("--config", path, "config", "show", "--name", "flagged", "--json")
    assert code == 0
    found = {n: (s["value"], s["source"]) for n, s in json.loads(out)["settings"].items()}
    assert found["name"] == ("flagged", "flag")
    assert found["groups"] == (4, "environment (RAFTDECK_GROUPS)")
    assert found["nodes"] == (5, f"file ({path})")
    assert found["heartbeat-ms"] == (20, f"file ({path})")
    assert found["data"] == (None, "default")


def test_the_usual_settings_file_is_found(call, tmp_path):
    path = tmp_path / "config" / "raftdeck" / "config.toml"
    path.parent.mkdir(parents=True)
    assert call("config", "path") == (0, f"{path}\n", "")
    assert settings(call)["nodes"] == (None, "default")
    path.write_text("nodes = 7")
    assert settings(call)["nodes"] == (7, f"file ({path})")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("node = 5", "no setting 'node'; valid are: cluster, name, data, nodes"),
        ("nodes = 'five'", "nodes must be a whole number"),
        ("nodes = true", "nodes must be a whole number"),
        ("name = 5", "name must be a text"),
        ("nodes =", "Invalid value"),
        ("[nodes]", "nodes must be a whole number"),
    ],
)
def test_a_wrong_settings_file_is_a_usage_error_that_names_the_file(call, tmp_path, text, words):
    path = tmp_path / "raftdeck.toml"
    path.write_text(text)
    code, out, err = call("--config", path, "config", "show")
    assert (code, out) == (2, "")
    assert words in err
    assert str(path) in err


def test_a_settings_file_that_was_asked_for_must_exist(call, tmp_path):
    code, _, err = call("--config", tmp_path / "no.toml", "ls")
    assert code == 0, "ls has no settings"
    code, _, err = call("--config", tmp_path / "no.toml", "status")
    assert code == 2
    assert "no such file" in err


def test_every_setting_is_an_option_of_a_verb():
    named = {parameter.name for path, command in ALL for parameter in command.params}
    assert {setting.name for setting in SETTINGS} <= named


# --- how it ends ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hug"], "no verb 'hug'; valid are: demo, up, down"),
        (
            ["node", "hug", "n1"],
            "no verb 'hug'; valid are: kill, stop, start, restart, pause, resume",
        ),
        (["up", "--hug"], "No such option"),
        (["up", "-n", "many"], "not a valid integer"),
        (["up", "-n", "16"], "nodes: 16 is not a whole number from 1 to 15"),
        (["up", "-n", "0"], "from 1 to 15"),
        (["up", "--name", "../x"], "cluster name"),
        (["up", "--heartbeat-ms", "200"], "timers"),
        (["up", "--segment-bytes", "1000"], "segment_bytes"),
        (["up", "--prepare", "hope"], "is not one of"),
        (["up", "--compression", "gzip"], "'none', 'lz4', 'zstd'"),
        (["up", "--retain-s", "-1"], "retain_s: -1 is not a whole number from 0"),
        (["up", "--retain-bytes", "-5"], "retain_bytes: -5 is not a whole number from 0"),
        (["status", "--wait", "mood=1"], "leader, healthy"),
        (["kv", "put", "k", "v", "--file", "/dev/null"], "VALUE or --file"),
        (["kv", "cas", "k", "v"], "EXPECTED and VALUE"),
        (["kv", "put", "k" * (KEY_BYTES_MAX + 1), "v"], f"has 1 to {KEY_BYTES_MAX} bytes"),
        (["kv", "get", ""], f"has 1 to {KEY_BYTES_MAX} bytes"),
        (["kv", "range", "a", "--prefix", "b"], "--prefix, or START"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(call, arguments, words):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


def test_a_codec_whose_package_is_missing_names_the_extra(call, tmp_path, monkeypatch):
    from wal import compression

    compression._functions.cache_clear()
    monkeypatch.setitem(sys.modules, "lz4.block", None)
    code, out, err = call("up", "--compression", "lz4", "--data", tmp_path / "data")
    monkeypatch.undo()
    compression._functions.cache_clear()
    assert (code, out) == (4, "")
    assert 'pip install "raftdeck[compression]"' in err
    assert not (tmp_path / "data").exists()


def test_a_value_over_the_limit_is_a_usage_error(call, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(VALUE_BYTES_MAX + 1))
    code, _, err = call("kv", "put", "k", "--file", path)
    assert code == 2
    assert f"more than {VALUE_BYTES_MAX} bytes" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["down"],
        ["node", "kill", "leader"],
        ["leader", "show"],
        ["kv", "get", "k"],
        ["load", "--seconds", "1"],
        ["logs"],
    ],
)
def test_without_a_cluster_a_verb_exits_with_5_and_says_what_to_do(call, arguments):
    assert call(*arguments) == (5, "", "Error: no cluster is running; begin: raftdeck up -n 3\n")
    code, _, err = call(*arguments, "--cluster", "gone")
    assert code == 5
    assert err == "Error: no running cluster 'gone'; running: none\n"


def test_ls_without_a_cluster_is_an_empty_list(call):
    code, out, err = call("ls")
    assert (code, out) == (0, "")
    assert "raftdeck up" in err
    assert json.loads(call("ls", "--json")[1]) == {
        "schema": "raftdeck.ls/1",
        "clusters": [],
        "removed": [],
    }


def test_an_unforeseen_error_has_no_traceback_unless_asked_for(call, monkeypatch):
    def broken(cluster):
        raise RuntimeError("the moon")

    monkeypatch.setattr(cluster.cli_status, "attach", broken)
    code, _, err = call("status")
    assert code == 4
    assert err.startswith("Error: internal: RuntimeError: the moon; run it again with --debug")
    assert "Traceback" not in err
    for arguments in (("--debug", "status"), ("status", "--debug")):
        code, _, err = call(*arguments)
        assert code == 4
        assert "Traceback" in err


@pytest.mark.parametrize(("closed", "code"), [("1", Exit.HELD), ("2", Exit.USAGE)])
def test_an_output_closed_from_the_start_changes_no_exit_code(closed: str, code: Exit) -> None:
    arguments = "--version" if closed == "1" else "check /nonexistent"
    program = shlex.join([sys.executable, "-P", "-m", "cluster.cli"])
    answer = subprocess.run(
        ["/bin/sh", "-c", f"{program} {arguments} {closed}>&-"],
        env=module_environment(), check=False, capture_output=True, timeout=60,
    )  # fmt: skip
    assert (answer.returncode, answer.stdout, answer.stderr) == (code, b"", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_takes_nothing_is_told(unbuffered: str) -> None:
    environment = module_environment() | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "wb") as full:
        answer = subprocess.run(
            [sys.executable, "-P", "-m", "cluster.cli", "check", "--help"],
            stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False,
        )  # fmt: skip
    assert answer.returncode == Exit.UNFIT
    assert answer.stderr == "Error: the output could not be written: No space left on device\n"


def test_an_interrupt_is_130(call, monkeypatch):
    def interrupted(cluster):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    monkeypatch.setattr(cluster.cli_status, "attach", interrupted)
    assert call("status")[0] == 130
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_module_that_is_not_installed_is_named(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "cluster.demo", None)
    monkeypatch.setattr(
        importlib, "import_module", lambda name: (_ for _ in ()).throw(missing(name))
    )
    code, _, err = call("demo")
    assert code == 4
    assert "this installation has no cluster.demo" in err


def test_wal_is_mounted_from_the_wal_package(call, tmp_path):
    code, _, err = call("wal", "verify", tmp_path / "none")
    assert code == 2
    assert "No such file or directory" in err


def missing(name):
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_every_exit_of_a_node_maps_to_one_of_a_verb():
    assert {code: exit_of_node(code) for code in NodeExit} == {
        NodeExit.CLEAN: Exit.HELD,
        NodeExit.USAGE: Exit.USAGE,
        NodeExit.CORRUPT_LOG: Exit.FAILED,
        NodeExit.DATA_DIR_UNUSABLE: Exit.UNFIT,
        NodeExit.POISONED_LOG: Exit.FAILED,
        NodeExit.IN_USE: Exit.UNFIT,
        NodeExit.OTHER_FORMAT: Exit.UNFIT,
        NodeExit.FOREIGN_IDENTITY: Exit.USAGE,
    }
    assert exit_of_node(None) is exit_of_node(1) is Exit.UNFIT


def test_an_error_survives_the_control_socket():
    error = CommandError(Exit.NO_QUORUM, "not yet")
    again = CommandError.decode(error.encode())
    assert (again.exit_code, str(again)) == (Exit.NO_QUORUM, "not yet")
    odd: object
    for odd in ("text", None, {}, {"exit": 99}, {"exit": []}, {"exit": "2"}):
        assert CommandError.decode(odd).exit_code is Exit.FAILED
