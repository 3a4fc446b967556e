"""`raftdeck check`: verdicts, exit codes, documents, drawings, and what it says of bad input."""

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import psutil
import pytest

from cluster.check.judge import JUDGES
from cluster.check.sample import SampleSpec, sample_history
from cluster.cli import main
from cluster.cli_check import EXPORTS, FORMATS, MODELS
from cluster.exits import Exit

GOOD = "0 :invoke :write 1\n0 :ok :write 1\n0 :invoke :read\n0 :ok :read 1\n"
BAD = GOOD.replace(":ok :read 1", ":ok :read 2")


@pytest.fixture
def call(capfd):
    def run(*arguments):
        code = main(["check", *map(str, arguments)])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def file(tmp_path):
    def write(text, name="history.txt"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_the_choices_of_the_command_are_the_ones_there_are():
    from cluster.check import exports, formats

    assert set(MODELS) == set(JUDGES)
    assert set(FORMATS) == {member.value for member in formats.Format}
    assert set(EXPORTS) == set(exports.EXPORTS)


@pytest.mark.parametrize(
    ("text", "model", "verdict", "exit_code"),
    [
        (GOOD, "register", "pass", Exit.HELD),
        (GOOD, "cas", "pass", Exit.HELD),
        (BAD, "register", "fail", Exit.FAILED),
        ("0 :invoke :add 1\n0 :ok :add 1\n", "set", "unknown", Exit.UNKNOWN),
    ],
)
def test_a_verdict_is_an_exit_code_a_line_and_a_document(
    call, file, text, *, model, verdict, exit_code
):
    path = file(text)
    code, out, _ = call(path, "--model", model)
    assert code == exit_code
    assert out.startswith(f"{verdict}  {path}")
    code, out, _ = call(path, "--model", model, "--json")
    assert code == exit_code
    document = json.loads(out)
    assert (document["schema"], document["verdict"]) == ("raftdeck.check/1", verdict)
    assert document["checks"][0]["verdict"] == verdict


def test_a_failure_says_what_and_where(call, file):
    _, out, _ = call(file(BAD), "--model", "cas")
    assert "read → 2 (process 0, line 3): finds 1" in out
    _, out, _ = call(file(BAD), "--model", "cas", "--json")
    document = json.loads(out)
    assert document["checks"][0]["counterexample"]["lines"] == [3]


@pytest.mark.parametrize("key", ["{[1 2] 3}", "#{1 2}", "[:a {#{1} 2}]"])
def test_a_failing_key_may_be_anything(call, file, key):
    events = [("invoke", "read", "nil"), ("ok", "read", "3")]
    text = "\n".join(
        f"{{:process 0, :type :{type_}, :f :{f}, :key {key}, :value {value}}}"
        for type_, f, value in events
    )
    code, out, _ = call(file(text), "--model", "register", "--json")
    assert code == Exit.FAILED
    assert "counterexample" in json.loads(out)["checks"][0]


@pytest.mark.parametrize("way", ["auto", "zones", "wgl"])
def test_each_way_of_deciding_gives_the_same_verdict(call, file, way):
    assert call(file(GOOD), "--model", "register", "--by", way)[0] == Exit.HELD
    assert call(file(BAD), "--model", "register", "--by", way)[0] == Exit.FAILED


def test_a_way_that_does_not_apply_is_unknown(call, file):
    code, out, _ = call(file(GOOD), "--model", "register", "--by", "witness")
    assert code == Exit.UNKNOWN
    assert "position" in out
    again = GOOD + "0 :invoke :write 1\n0 :ok :write 1\n"
    assert call(file(again), "--model", "register", "--by", "zones")[0] == Exit.UNKNOWN


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("nothing here", "line 1"),
        ("{:process 0}", "line 1"),
        ("0 :ok :read", "begun"),
    ],
)
def test_a_bad_history_is_a_usage_error_with_its_line(call, file, text, words):
    path = file(text)
    code, out, err = call(path, "--model", "register", "--json")
    assert (code, out) == (Exit.USAGE, "")
    assert err.startswith(f"Error: {path}: ")
    assert words in err


def test_a_file_that_is_not_there_is_a_usage_error(call, tmp_path):
    code, _, err = call(tmp_path / "none.edn", "--model", "register")
    assert code == Exit.USAGE
    assert "no such file" in err
    assert call(tmp_path, "--model", "register")[0] == Exit.USAGE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_the_environments_fault(call, file):
    path = file(GOOD)
    path.chmod(0)
    assert call(path, "--model", "register")[0] == Exit.UNFIT


@pytest.mark.parametrize(
    "arguments", [(), ("--model", "stack"), ("--model", "set", "--timeout", "0")]
)
def test_bad_arguments_name_the_good_ones(call, file, arguments):
    code, _, err = call(file(GOOD), *arguments)
    assert code == Exit.USAGE
    assert "--help" in err or "--model register|cas" in err


@pytest.mark.parametrize("kind", EXPORTS)
def test_an_export_is_judged_like_its_original(call, file, tmp_path, kind):
    for text, exit_code in ((GOOD, Exit.HELD), (BAD, Exit.FAILED)):
        target = tmp_path / f"out.{kind}"
        code, _, err = call(file(text), "--model", "register", "--export", kind, target)
        assert code == exit_code
        assert str(target) in err
        assert call(target, "--model", "register")[0] == exit_code


def test_standard_input_is_a_file_too(call, file):
    answer = subprocess.run(
        [sys.executable, "-P", "-m", "cluster.cli", "check", "-", "--model", "register"],
        input=BAD.encode(),
        capture_output=True,
        timeout=50,
        check=False,
    )
    assert answer.returncode == Exit.FAILED
    assert answer.stdout.startswith(b"fail")


# ---- the picture ---------------------------------------------------------------------------------


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []
        self.depth = 0
        self.bad_bars = 0

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.outside += [value for name, value in attrs if name in ("src", "href") and value]
        classes = dict(attrs).get("class") or ""
        self.bad_bars += tag == "rect" and "bad" in classes
        self.depth += tag not in ("meta", "rect", "line", "br")

    def handle_endtag(self, tag):
        self.depth -= tag not in ("rect", "line")


def test_the_picture_stands_alone_and_shows_the_culprit(call, file, tmp_path):
    target = tmp_path / "why.html"
    text = BAD.replace(":write 1", ':write "<b>"').replace("0 :invoke :read", "1 :invoke :read")
    text = text.replace("0 :ok :read", "1 :ok :read")
    code, out, _ = call(file(text), "--model", "cas", "--html", target, "--json")
    assert code == Exit.FAILED
    assert json.loads(out)["html"] == str(target)
    content = target.read_text()
    page = _Page()
    page.feed(content)
    assert page.outside == []
    assert "script" not in page.tags
    assert page.bad_bars == 1
    assert "<b>" not in content
    assert "write &lt;b&gt;</text>" in content
    assert "prefers-color-scheme: dark" in content


def test_there_is_nothing_to_draw_of_a_pass(call, file, tmp_path):
    target = tmp_path / "why.html"
    code, _, err = call(file(GOOD), "--model", "cas", "--html", target)
    assert code == Exit.HELD
    assert "nothing to draw" in err
    assert not target.exists()


# ---- the budget ----------------------------------------------------------------------------------


HARD = """
import sys
from cluster.cli import main
sys.exit(main(sys.argv[1:]))
"""


def hard_history(path: Path, writers: int = 26) -> None:
    """Different amounts of either sign, all at once, and an odd sum of even ones: 2^26 states."""
    lines = [f"{n} :invoke :add {2 * (-3) ** n}" for n in range(writers)]
    lines += ["99 :invoke :read", "99 :ok :read 1"]
    path.write_text("\n".join(lines))


def test_memory_is_bounded_by_a_flag(tmp_path):
    """Measured from outside: the most that the process ever held."""
    path = tmp_path / "hard.txt"
    hard_history(path)
    bound_mib = 80
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", HARD, "check", path, "--model", "counter", "--memory",
         str(bound_mib), "--timeout", "40"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    watched = psutil.Process(process.pid)
    most = 0
    try:
        while process.poll() is None:
            try:
                most = max(most, watched.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            try:
                process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
        out, _ = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == Exit.UNKNOWN, out
    assert b"--memory" in out
    assert 40 < most / 2**20 < bound_mib * 1.1


def test_thinking_time_is_bounded_by_a_flag(call, tmp_path):
    path = tmp_path / "hard.txt"
    hard_history(path)
    code, out, _ = call(path, "--model", "counter", "--timeout", "0.3")
    assert code == Exit.UNKNOWN
    assert "--timeout" in out


# ---- whole histories -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["register", "kv-append", "counter"])
def test_a_sample_passes_as_a_file(call, tmp_path, kind):
    from cluster.check.exports import export_history

    path = tmp_path / "history.jsonl"
    with path.open("w") as stream:
        export_history(
            sample_history(SampleSpec(500, keys=5, kind=kind, crash_percent=2)), "jsonl", stream, kind
        )  # fmt: skip
    assert call(path, "--model", kind)[0] == Exit.HELD


# ---- the bench -----------------------------------------------------------------------------------


def test_the_bench_judges_what_it_makes_and_labelled_histories(tmp_path, capfd):
    (tmp_path / "a.log").write_text(GOOD)
    (tmp_path / "b.log").write_text(BAD)
    (tmp_path / "VERDICTS.tsv").write_text("a.log\tlinearizable\nb.log\tnot-linearizable\n")
    command = ["bench", "check", "--quick", "--operations", "300", "--labelled", str(tmp_path)]
    assert main([*command, "--json"]) == Exit.HELD
    document = json.loads(capfd.readouterr().out)
    assert document["schema"] == "raftdeck.bench/1"
    names = {ratio["name"]: ratio for ratio in document["ratios"]}
    assert set(names) == {
        "witness_seconds", "wgl_seconds", "labelled_longest_seconds", "labelled_disagreements",
    }  # fmt: skip
    assert len(document["rows"]) == 5
    (tmp_path / "VERDICTS.tsv").write_text("b.log linearizable\n")
    assert main(command) == Exit.FAILED
    assert "labelled_disagreements" in capfd.readouterr().out
    (tmp_path / "VERDICTS.tsv").write_text("b.log perhaps\n")
    assert main(command) == Exit.USAGE


def test_every_labelled_history_is_judged_as_it_is_labelled(capfd):
    labelled = Path(__file__).resolve().parents[3] / "shared" / "data" / "linearizability"
    if not (labelled / "VERDICTS.tsv").is_file():
        pytest.skip("no ../shared/data/linearizability beside this checkout")
    command = ["bench", "check", "--quick", "--operations", "300", "--labelled", str(labelled)]
    main([*command, "--json"])  # its exit code is of times as well
    ratios = json.loads(capfd.readouterr().out)["ratios"]
    values = {ratio["name"]: ratio["value"] for ratio in ratios}
    assert values["labelled_disagreements"] == 0


@pytest.mark.parametrize("device", ["/dev/full", "/dev/zero", "/dev/null"])
def test_a_device_is_no_history(call, device):
    code, _, err = call(device, "--model", "register")
    assert code == Exit.USAGE
    assert f"{device}: a device" in err


def test_no_more_is_read_than_may_be_held(call, tmp_path):
    path = tmp_path / "large.log"
    path.write_bytes(b"0 :invoke :read\n" * (1 << 17))
    code, _, err = call(path, "--model", "register", "--memory", "1")
    assert code == Exit.USAGE
    assert "more than --memory 1 MiB" in err
