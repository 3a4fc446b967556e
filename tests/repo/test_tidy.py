"""The style that a machine can check, after TigerBeetle's `tidy`: each rule is a failing test.

A rule is a function from a source file to its complaints. Every rule is shown red on a planted
snippet first, so that none of them can rot into a check that never fails.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cluster", "node", "wal", "dashboard")
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
PARAMETERS_MAX = 5
ADR_LINES_MAX = 40
CHANGELOG_SECTIONS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}

UNFINISHED = re.compile(r"\b(FIXME|TODO|XXX)\b")  # this file is not searched for them
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(root|home|work|tmp|Users|opt)/")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Rule = Callable[[str], Iterator[str]]


def long_file(source: str) -> Iterator[str]:
    count = len(source.splitlines())
    if count > FILE_LINES_MAX:
        yield f"{count} lines, at most {FILE_LINES_MAX}: a file is one idea"


def long_function(source: str) -> Iterator[str]:
    for function in functions(source):
        count = (function.end_lineno or 0) - function.lineno + 1
        if count > FUNCTION_LINES_MAX:
            yield f"{place(function)}: {count} lines, at most {FUNCTION_LINES_MAX}"


def many_parameters(source: str) -> Iterator[str]:
    """Count what can be passed by position, without self and cls; keyword-only extras are free."""
    for function in functions(source):
        names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
        count = len(names) - (names[:1] in (["self"], ["cls"], ["mcs"]))
        if count > PARAMETERS_MAX:
            yield f"{place(function)}: {count} parameters, at most {PARAMETERS_MAX}; use `*`"


def unfinished(source: str) -> Iterator[str]:
    for number, line in enumerate(source.splitlines(), 1):
        if UNFINISHED.search(line):
            yield f"line {number}: finish it, or write an issue: {line.strip()}"


def bare_except(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"line {node.lineno}: name what is caught"


def silent_except(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler) and all(map(is_nothing, node.body)):
            yield f"line {node.lineno}: handle it, or write contextlib.suppress and say why"


def sleep(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "time.sleep":
            yield f"line {node.lineno}: wait for the event, not for time"
        if isinstance(node, ast.ImportFrom) and any(name.name == "sleep" for name in node.names):
            yield f"line {node.lineno}: wait for the event, not for time"


def undocumented(source: str) -> Iterator[str]:
    tree = ast.parse(source)
    if source.strip() and ast.get_docstring(tree) is None:
        yield "the module has no docstring"
    yield from undocumented_members(tree, "")


def undocumented_members(owner: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
    for node in owner.body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None and not is_exempt(node):
            yield f"line {node.lineno}: {prefix}{node.name} has no docstring"
        if isinstance(node, ast.ClassDef):
            yield from undocumented_members(node, f"{node.name}.")


def is_exempt(node: Function | ast.ClassDef) -> bool:
    """Overloads and overrides have their docstring elsewhere; a property's setter too."""
    names = {ast.unparse(decorator).rsplit(".", 1)[-1] for decorator in node.decorator_list}
    return bool(names & {"overload", "override", "setter", "deleter"})


def machine_path(source: str) -> Iterator[str]:
    for number, line in enumerate(source.splitlines(), 1):
        if MACHINE_PATH.search(line):
            yield f"line {number}: names a path of one machine: {line.strip()}"


def address(source: str) -> Iterator[str]:
    for number, line in enumerate(source.splitlines(), 1):
        if "://" in line or "--index-url" in line or "--find-links" in line:
            yield f"line {number}: names a registry: {line.strip()}"


def unkept_changelog(source: str) -> Iterator[str]:
    lines = source.splitlines()
    if lines[:1] != ["# Changelog"]:
        yield "the first line is not `# Changelog`"
    versions = [line for line in lines if line.startswith("## ")]
    if versions[:1] != ["## [Unreleased]"]:
        yield "the first version is not `## [Unreleased]`"
    for line in versions[1:]:
        if not re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d( \[YANKED\])?", line):
            yield f"not `## [1.2.3] - 2030-12-31`: {line}"
    for line in lines:
        if line.startswith("### ") and line.removeprefix("### ") not in CHANGELOG_SECTIONS:
            yield f"{line} is none of {sorted(CHANGELOG_SECTIONS)}"


def long_decision(source: str) -> Iterator[str]:
    if len(source.splitlines()) > ADR_LINES_MAX:
        yield f"more than {ADR_LINES_MAX} lines"


def functions(source: str) -> Iterator[Function]:
    return (node for node in ast.walk(ast.parse(source)) if isinstance(node, Function))


def place(function: Function) -> str:
    return f"line {function.lineno}: {function.name}"


def is_nothing(node: ast.stmt) -> bool:
    ellipsis = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return isinstance(node, ast.Pass) or ellipsis


def python_files(*tops: str) -> list[Path]:
    """Find the Python files below the named directories, programs without a suffix included."""
    found = []
    for top in tops:
        for path in sorted((ROOT / top).rglob("*")):
            if "__pycache__" in path.parts or not path.is_file():
                continue
            if path.suffix == ".py" or (path.suffix == "" and is_python_program(path)):
                found.append(path)
    return found


def is_python_program(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline(80)
    return first.startswith(b"#!") and b"python" in first


def text_files() -> list[Path]:
    notes = [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), *(ROOT / "docs").rglob("*.md")]
    files = [*python_files(*EVERYWHERE), *sorted(notes), ROOT / ".ci" / "run"]
    return [path for path in files if path != Path(__file__).resolve()]


EVERYWHERE = (*PACKAGES, "scripts", "tests")
RULES: list[tuple[Rule, Callable[[], list[Path]]]] = [
    (long_file, lambda: python_files(*EVERYWHERE)),
    (long_function, lambda: python_files(*EVERYWHERE)),
    (many_parameters, lambda: python_files(*EVERYWHERE)),
    (unfinished, text_files),
    (bare_except, lambda: python_files(*EVERYWHERE)),
    (silent_except, lambda: python_files(*EVERYWHERE)),
    (sleep, lambda: python_files("tests")),
    (undocumented, lambda: python_files(*PACKAGES)),
    (machine_path, lambda: [ROOT / "requirements.lock", ROOT / "pyproject.toml"]),
    (address, lambda: [ROOT / "requirements.lock"]),
    (unkept_changelog, lambda: [ROOT / "CHANGELOG.md"]),
    (long_decision, lambda: sorted((ROOT / "docs" / "adr").glob("*.md"))),
]

SIX = "a, b, c, d, e, f"
PLANTED: list[tuple[Rule, str, str]] = [
    (long_file, "x = 1\n" * 601, "x = 1\n" * 600),
    (long_function, "def f():\n" + "    g()\n" * 70, "def f():\n" + "    g()\n" * 69),
    (many_parameters, f"def f({SIX}): ...", f"def f({SIX[:-3]}, *, g, h): ..."),
    (many_parameters, f"class A:\n  def f(self, {SIX}): ...", f"def f(self, {SIX[:-3]}): ..."),
    (unfinished, "x = 1  # FIXME: why?", "x = 1  # fixed"),
    (unfinished, "# TODO", "todos = 1"),
    (bare_except, "try: f()\nexcept: g()", "try: f()\nexcept OSError: g()"),
    (silent_except, "try: f()\nexcept OSError: pass", "try: f()\nexcept OSError: g()"),
    (silent_except, "try: f()\nexcept OSError: ...", "try: f()\nexcept OSError: return_(1)"),
    (sleep, "import time\ntime.sleep(1)", "import time\ntime.monotonic()"),
    (sleep, "from asyncio import sleep", "from asyncio import Event"),
    (sleep, "from time import sleep", "from time import monotonic"),
    (undocumented, "x = 1", '"""Why."""\nx = 1'),
    (undocumented, '"""M."""\ndef f(): ...', '"""M."""\ndef _f(): ...'),
    (undocumented, '"""M."""\nclass A:\n  "A."\n  def f(self): ...', '"""M."""\nclass A: "A."'),
    (machine_path, "--find-links /opt/wheels", "a/opt/b"),
    (address, "--extra-index-url https://registry/simple", "zstandard==1.0"),
    (unkept_changelog, "# Changes\n## [Unreleased]", "# Changelog\n## [Unreleased]"),
    (unkept_changelog, "# Changelog\n## [1.0.0] - 2030-01-01", "# Changelog\n## [Unreleased]"),
    (
        unkept_changelog,
        "# Changelog\n## [Unreleased]\n### News",
        "# Changelog\n## [Unreleased]\n### Added\n## [1.0.0] - 2030-01-01",
    ),
    (long_decision, "a\n" * 41, "a\n" * 40),
]


@pytest.mark.parametrize(("rule", "bad", "good"), PLANTED)
def test_a_rule_is_red_on_a_planted_snippet_and_green_without_it(
    rule: Rule, bad: str, good: str
) -> None:
    assert list(rule(bad)), f"{rule.__name__} lets this pass:\n{bad}"
    assert not list(rule(good)), f"{rule.__name__} refuses this:\n{good}"


def test_every_rule_has_been_seen_red() -> None:
    assert {rule for rule, _ in RULES} == {rule for rule, _, _ in PLANTED}


@pytest.mark.parametrize(("rule", "files"), RULES, ids=[rule.__name__ for rule, _ in RULES])
def test_the_repository_is_tidy(rule: Rule, files: Callable[[], list[Path]]) -> None:
    paths = files()
    assert paths, "the rule finds no file to check"
    complaints = [
        f"{path.relative_to(ROOT)}: {complaint}"
        for path in paths
        for complaint in rule(path.read_text(encoding="utf-8"))
    ]
    assert not complaints, "\n".join(complaints)


def test_programs_without_a_suffix_are_checked_too() -> None:
    assert ROOT / "scripts" / "test" in python_files("scripts")


def test_no_directory_of_tests_is_a_package() -> None:
    """Else pytest imports `tests/node` as `node`, which then hides the product."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_tells_type_checkers_that_it_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
