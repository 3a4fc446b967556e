"""Small random changes of what must not be wrong: who notices?

    python tests/planted/mutants.py --of raft --count 150        judge a sample, print who survived
    python tests/planted/mutants.py --of wal --jobs 1 --out wal.json    keep the verdicts; goes on from them

`raft` is `node/raft`, judged by its unit tests and then the simulator; `wal` is how frames and
segments lie and are read back, judged by the tests of that, then by the crash models and the tools,
then by the crash points of the simulator.

A mutant changes one place: a comparison, an operator, a constant, a condition, or leaves a statement
out. It is written into a copy of the tree, never into this one. It is noticed by the first judge
that fails, or that never ends; who survives all is printed with its change, to be explained:
equivalent (nothing can notice), harmless (an optimisation), or a gap in the tests. The judges see the
unchanged tree first: whoever fails it judges nothing.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("wal", "node", "cluster", "dashboard", "scripts", "docs", "tests", "pyproject.toml")
NOBODY = "nobody"


@dataclass(frozen=True)
class Judge:
    """A command that ends with 0 if it noticed nothing; `marks` begin the line that tells what."""

    name: str
    arguments: tuple[str, ...]
    timeout_s: int
    marks: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """What is changed, and by whom it is judged, the fastest first."""

    files: tuple[str, ...]
    judges: tuple[Judge, ...]


def _pytest(name: str, tests: tuple[str, ...], timeout_s: int) -> Judge:
    arguments = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests)
    return Judge(name, arguments, timeout_s, ("FAILED", "ERROR"))


def _simulator(profile: str) -> Judge:
    """Judge by 150 seeds of each of lite and swarm: 300 in all."""
    arguments = ("-m", "cluster.sim", "--profile", profile, "--seeds", "150", "--jobs", "1")
    return Judge("simulator", (*arguments, "--no-shrink", "--fail-fast"), 300, ("seed ",))


def _wal(name: str, tests: str, timeout_s: int) -> Judge:
    return _pytest(name, tuple(f"tests/wal/test_{each}.py" for each in tests.split()), timeout_s)


UNIT_OF_RAFT = (
    "tests/node/raft",
    "tests/node/test_multiraft.py",
    "tests/node/test_runtime.py",
    "tests/node/test_status.py",
)
UNIT_OF_WAL = "layout damage segments failures decision_table open flips again"

SUBJECTS = {
    "raft": Subject(
        ("node/raft/*.py",),  # the invariants are a package of their own: they judge
        (_pytest("unit", UNIT_OF_RAFT, 180), _simulator("lite"), _simulator("swarm")),
    ),
    "wal": Subject(
        ("wal/frame.py", "wal/recovery.py", "wal/segment.py"),
        (
            _wal("unit", UNIT_OF_WAL, 60),
            _wal("crashes", "crash_model state_machine repair", 180),
            _wal("tools", "inspect commands convert driver policies", 180),
            _pytest("simulator", ("tests/sim/test_crash_points.py", "-k", "loses_nothing"), 240),
        ),
    ),
}

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
}


@dataclass(frozen=True)
class Mutant:
    """One change: where, and what the line says afterwards."""

    file: str
    line: int
    column: int
    change: str
    source: str


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    file: str
    line: int
    change: str
    by: str
    """The name of a judge, or nobody."""
    what: str
    seconds: float


def variants(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield every small change of one node of the tree: its words, and the new node."""
    if isinstance(node, ast.Compare):
        for at, operator in enumerate(node.ops):
            if type(operator) in COMPARISONS:
                compared = copy.deepcopy(node)
                compared.ops[at] = COMPARISONS[type(operator)]()
                yield "comparison", compared
    elif isinstance(node, ast.BoolOp):
        either = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
        yield "and/or", ast.BoolOp(either, copy.deepcopy(node.values))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "not", copy.deepcopy(node.operand)
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = copy.deepcopy(node.left), copy.deepcopy(node.right)
        yield "operator", ast.BinOp(left, OPERATORS[type(node.op)](), right)
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield "constant", ast.Constant(node.value + 1)
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        yield "constant", ast.Constant(not node.value)
    elif isinstance(node, ast.If):
        bodies = copy.deepcopy(node.body), copy.deepcopy(node.orelse)
        yield "branch never taken", ast.If(ast.Constant(False), *bodies)
    elif isinstance(node, ast.Assign | ast.AugAssign) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield "statement left out", ast.Pass()


class _Replace(ast.NodeTransformer):
    """Puts one node into the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self._old, self._new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        if node is self._old:
            return ast.copy_location(self._new, node)
        return self.generic_visit(node)


def functions(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the bodies of functions: what stands outside of them is data and declarations."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            for statement in node.body:
                if not (
                    isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
                ):
                    yield from ast.walk(statement)


def mutants(subject: Subject) -> list[Mutant]:
    """Return every mutant there is."""
    found = []
    for path in sorted(path for pattern in subject.files for path in ROOT.glob(pattern)):
        if path.name == "__init__.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in functions(tree):
            for words, new in variants(node):
                changed = ast.fix_missing_locations(_Replace(node, new).visit(tree))
                source = ast.unparse(changed)
                _Replace(new, node).visit(tree)
                line = getattr(node, "lineno", 0)
                before, after = ast.unparse(node).split("\n")[0], ast.unparse(new).split("\n")[0]
                change = f"{words}: {before}  →  {after}"
                column = getattr(node, "col_offset", 0)
                found.append(Mutant(str(path.relative_to(ROOT)), line, column, change, source))
    return found


def run(command: list[str], tree: Path, timeout_s: int) -> tuple[int, str]:
    """Run a command in a copy of the tree; a timeout is exit code 124."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tree), "HOME": str(tree)}
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return 124, "it never ended"
    return done.returncode, done.stdout + done.stderr


def judge(mutant: Mutant, subject: Subject, tree: Path) -> Verdict:
    """Let one judge after the other look at a mutant."""
    began = time.monotonic()
    path = tree / mutant.file
    path.write_text(mutant.source, encoding="utf-8")
    try:
        by, what = judged(subject, tree)
    finally:
        shutil.copy(ROOT / mutant.file, path)
    seconds = round(time.monotonic() - began, 1)
    return Verdict(mutant.file, mutant.line, mutant.change, by, what, seconds)


def judged(subject: Subject, tree: Path) -> tuple[str, str]:
    """Return who notices something in a tree, and what."""
    for each in subject.judges:
        code, text = run([sys.executable, *each.arguments], tree, each.timeout_s)
        if code:
            lines = text.splitlines()
            found = [line for line in lines if line.startswith(each.marks)]
            return each.name, (found or lines or [""])[0][:200]
    return NOBODY, ""


def judge_all(
    subject: Subject,
    sample: list[Mutant],
    jobs: int,
    done: dict[str, Verdict],
    out: Path | None,
) -> None:
    """Judge what has no verdict yet, each worker in a copy of its own."""
    with tempfile.TemporaryDirectory(prefix="raftdeck-mutants-") as scratch:
        trees: SimpleQueue[Path] = SimpleQueue()
        for worker in range(jobs):
            trees.put(copied(Path(scratch) / f"{worker}"))

        def work(mutant: Mutant) -> Verdict:
            tree = trees.get()
            try:
                return judge(mutant, subject, tree)
            finally:
                trees.put(tree)

        left = [mutant for mutant in sample if name_of(mutant) not in done]
        tree = trees.get()
        by, what = judged(subject, tree)
        trees.put(tree)
        if by != NOBODY:
            raise SystemExit(f"{by} fails the unchanged tree: {what}")
        with ThreadPoolExecutor(jobs) as pool:
            futures = {pool.submit(work, mutant): mutant for mutant in left}
            try:
                for future in as_completed(futures):
                    verdict = future.result()
                    done[name_of(futures[future])] = verdict
                    tell(verdict, len(done), len(sample))
                    if out is not None:
                        out.write_text(
                            json.dumps({k: asdict(v) for k, v in done.items()}, indent=1)
                        )
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def name_of(mutant: Mutant) -> str:
    """What a mutant is called in the file of verdicts."""
    return f"{mutant.file}:{mutant.line}:{mutant.column} {mutant.change}"


def copied(tree: Path) -> Path:
    """Copy what the tests need."""
    tree.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / part)
    return tree


def tell(verdict: Verdict, number: int, count: int) -> None:
    """Print one verdict."""
    print(
        f"{number:>4}/{count} {verdict.by:<10}{verdict.seconds:>6.1f} s "
        f" {verdict.file}:{verdict.line} {verdict.change}",
        file=sys.stderr,
        flush=True,
    )


def main() -> int:
    """Judge a sample and print the score and the survivors."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--of", choices=sorted(SUBJECTS), default="raft")
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="where to keep the verdicts")
    chosen = parser.parse_args()
    subject = SUBJECTS[chosen.of]
    every = mutants(subject)
    sample = random.Random(chosen.seed).sample(every, min(chosen.count, len(every)))
    done: dict[str, Verdict] = {}
    if chosen.out is not None and chosen.out.exists():
        kept = json.loads(chosen.out.read_text())
        names = {name_of(mutant) for mutant in sample}
        done = {name: Verdict(**verdict) for name, verdict in kept.items() if name in names}
    judge_all(subject, sample, chosen.jobs, done, chosen.out)
    sum_up(subject, list(done.values()), len(every))
    return 0


def sum_up(subject: Subject, verdicts: list[Verdict], every: int) -> None:
    """Print the score, and who survived."""
    names = list(dict.fromkeys(each.name for each in subject.judges))
    counts = {name: sum(verdict.by == name for verdict in verdicts) for name in [*names, NOBODY]}
    told = ", ".join(f"{counts[name]} noticed by {name}" for name in names)
    score = 100 * (1 - counts[NOBODY] / len(verdicts))
    print(f"{len(verdicts)} of {every} mutants: {told}, {counts[NOBODY]} by nobody: {score:.1f} %")
    for verdict in sorted(verdicts, key=lambda each: (each.file, each.line)):
        if verdict.by == NOBODY:
            print(f"  {verdict.file}:{verdict.line} {verdict.change}")


if __name__ == "__main__":
    sys.exit(main())
