"""Small random changes of `node/raft`: who notices? The unit tests first, then the simulator.

    python tests/planted/mutants.py --count 150 --jobs 2             judge a sample, print who survived
    python tests/planted/mutants.py --count 150 --out mutants.json   keep the verdicts; goes on from them

A mutant changes one place: a comparison, an operator, a constant, a condition, or leaves a statement
out. It is written into a copy of the tree, never into this one. It is `killed` by the first unit
test or simulated seed that fails, or that never ends; who survives both is printed with its change,
to be explained: equivalent (nothing can notice), harmless (an optimisation), or a gap in the tests.
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
TARGET = ROOT / "node" / "raft"
PARTS = ("wal", "node", "cluster", "dashboard", "tests", "pyproject.toml")
LEFT_OUT = {"__init__.py"}
"""The invariants are a package of their own: they judge."""
UNIT = ("tests/node/raft", *(f"tests/node/test_{n}.py" for n in ("multiraft", "runtime", "status")))
UNIT_TIMEOUT_S = 180
SEEDS = 150
"""Of each of lite and swarm: 300 in all."""
SEEDS_TIMEOUT_S = 300

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
    change: str
    source: str


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    file: str
    line: int
    change: str
    by: str
    """unit, simulator, or nobody."""
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


def mutants() -> list[Mutant]:
    """Return every mutant there is."""
    found = []
    for path in sorted(TARGET.glob("*.py")):
        if path.name in LEFT_OUT:
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
                found.append(Mutant(str(path.relative_to(ROOT)), line, change, source))
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


def judge(mutant: Mutant, tree: Path) -> Verdict:
    """Let the unit tests and then the simulator look at a mutant."""
    began = time.monotonic()
    path = tree / mutant.file
    path.write_text(mutant.source, encoding="utf-8")
    try:
        by, what = _judged(tree)
    finally:
        shutil.copy(ROOT / mutant.file, path)
    seconds = round(time.monotonic() - began, 1)
    return Verdict(mutant.file, mutant.line, mutant.change, by, what, seconds)


def _judged(tree: Path) -> tuple[str, str]:
    pytest = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *UNIT]
    code, text = run(pytest, tree, UNIT_TIMEOUT_S)
    if code:
        failed = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return "unit", (failed or text.splitlines() or [""])[0][:200]
    for profile in ("lite", "swarm"):
        simulator = [sys.executable, "-m", "cluster.sim", "--profile", profile]
        simulator += ["--seeds", str(SEEDS), "--jobs", "1", "--no-shrink", "--fail-fast"]
        code, text = run(simulator, tree, SEEDS_TIMEOUT_S)
        if code:
            found = [line for line in text.splitlines() if line.startswith("seed ")]
            return "simulator", f"{profile} {(found or text.splitlines() or [''])[0]}"[:200]
    return "nobody", ""


def judge_all(sample: list[Mutant], jobs: int, done: dict[str, Verdict], out: Path | None) -> None:
    """Judge what has no verdict yet, each worker in a copy of its own."""
    with tempfile.TemporaryDirectory(prefix="raftdeck-mutants-") as scratch:
        trees: SimpleQueue[Path] = SimpleQueue()
        for worker in range(jobs):
            trees.put(copied(Path(scratch) / f"{worker}"))

        def work(mutant: Mutant) -> Verdict:
            tree = trees.get()
            try:
                return judge(mutant, tree)
            finally:
                trees.put(tree)

        left = [mutant for mutant in sample if name_of(mutant) not in done]
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
    return f"{mutant.file}:{mutant.line} {mutant.change}"


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
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    every = mutants()
    sample = random.Random(chosen.seed).sample(every, min(chosen.count, len(every)))
    done: dict[str, Verdict] = {}
    if chosen.out is not None and chosen.out.exists():
        kept = json.loads(chosen.out.read_text())
        names = {name_of(mutant) for mutant in sample}
        done = {name: Verdict(**verdict) for name, verdict in kept.items() if name in names}
    judge_all(sample, chosen.jobs, done, chosen.out)
    counts = {by: sum(v.by == by for v in done.values()) for by in ("unit", "simulator", "nobody")}
    noticed = counts["unit"] + counts["simulator"]
    print(
        f"{len(sample)} of {len(every)} mutants: {counts['unit']} noticed by unit tests,"
        f" {counts['simulator']} by the simulator, {counts['nobody']} by nobody:"
        f" {100 * noticed / len(sample):.1f} %"
    )
    for verdict in sorted(done.values(), key=lambda each: (each.file, each.line)):
        if verdict.by == "nobody":
            print(f"  {verdict.file}:{verdict.line} {verdict.change}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
