"""Small random runs of any object, and the definition to hold a judge against: some order explains them.

Nothing of `cluster.check` is used here: an operation is a dict, its text is written by hand.
"""

import json
from typing import Any

Op = dict[str, Any]

OPEN = 10**9
"""Rank of a completion that never came."""


def run(stream, size, ask, apply):
    """Let up to four clients act at once on an object that takes one operation at a time.

    `ask(stream)` returns {"f", "arg", …}, `apply(op)` takes effect and returns the answer. What ends
    as `info` took effect, takes it later, or never.
    """
    lanes = stream.randint(1, 4)
    ops: list[Op] = []
    under_way: dict[int, Op] = {}
    late: list[Op] = []
    rank = 0
    processes = list(range(lanes))
    while len(ops) < size or under_way:
        if late and stream.random() < 0.3:
            apply(late.pop(stream.randrange(len(late))))
        lane = stream.randrange(lanes)
        if lane not in under_way:
            if len(ops) < size:
                ends = stream.choices(("ok", "info", "fail"), (65, 25, 10))[0]
                begun = {"call": rank, "ret": OPEN, "ended": OPEN, "res": None, "status": ends}
                op = ask(stream) | begun | {"process": processes[lane], "acted": ends == "fail"}
                under_way[lane] = op
                ops.append(op)
                rank += 1
            continue
        op = under_way[lane]
        if not op["acted"]:
            op["acted"] = True
            if op["status"] == "ok":
                op["res"] = apply(op)
            else:
                stream.choice((apply, late.append, id))(op)
            if stream.random() < 0.5:
                continue
        del under_way[lane]
        if op["status"] == "info":
            processes[lane] += lanes
            if stream.random() < 0.4:
                continue  # nobody ever heard of it again
        op["ended"] = rank
        op["ret"] = OPEN if op["status"] == "info" else rank
        rank += 1
    return ops


def has_order(ops, initial, step):
    """Tell whether some order respects real time and explains every answer.

    `step(state, op)` returns the states that may follow, none if the operation cannot happen there.
    """
    ops = [op for op in ops if op["status"] != "fail"]
    seen = set()

    def extends(state, left):
        if all(ops[n]["status"] != "ok" for n in left):
            return True
        if (state, left) in seen:
            return False
        seen.add((state, left))
        due = min(ops[n]["ret"] for n in left)
        return any(
            extends(after, left - {n})
            for n in left if ops[n]["call"] < due
            for after in step(state, ops[n])
        )  # fmt: skip

    return extends(initial, frozenset(range(len(ops))))


def by_key(ops):
    found: dict[Any, list[Op]] = {}
    for op in ops:
        found.setdefault(op.get("key"), []).append(op)
    return found.values()


def answered(ops, *names):
    return [op for op in ops if op["f"] in names and op["status"] == "ok"]


# ---- texts ---------------------------------------------------------------------------------------


def rows(ops, stream):
    """Yield (rank, operation, type, value) of every event in order."""
    events = []
    for op in ops:
        events.append((op["call"], op, "invoke", op["arg"]))
        if op["ended"] != OPEN:
            value = op["res"] if op["status"] == "ok" else stream.choice((op["arg"], None))
            events.append((op["ended"], op, op["status"], value))
    return sorted(events, key=lambda event: event[0])


def as_jsonl(ops, stream):
    names = ("process", "f")
    lines = []
    for rank, op, type_, value in rows(ops, stream):
        fields = {name: op[name] for name in names} | {"type": type_, "value": value}
        fields |= {"key": op["key"]} if op.get("key") is not None else {}
        lines.append(json.dumps(fields | {"time": rank * 10}))
    return stream.choice(("\n", "\r\n", "\n\n")).join(lines) + "\n\n"


def as_elle(ops, stream):
    documents = []
    for rank, op, type_, value in rows(ops, stream):
        fields = {"index": rank, "type": type_, "process": op["process"], "f": op["f"]}
        fields["value"] = value if op.get("key") is None else [op["key"], value]
        documents.append(fields)
    return json.dumps(documents, indent=stream.choice((None, 1)))


def as_edn(ops, stream):
    tag = stream.choice(("", "#jepsen.history.Op"))
    lines = [":process :nemesis, :type :info, :f :start, :value [:isolated {1 #{2}}]"]
    for _, op, type_, value in rows(ops, stream):
        text = edn(value if op.get("key") is None else [op["key"], value])
        lines.append(f":process {op['process']}, :type :{type_}, :f :{op['f']}, :value {text}")
    return "\n".join(f"{tag}{{{line}}}" for line in lines)


def as_log(ops, stream):
    lines = []
    for _, op, type_, value in rows(ops, stream):
        text = edn(value if op.get("key") is None else [op["key"], value])
        lines.append(f"INFO  jepsen.util - {op['process']}\t:{type_}\t:{op['f']}\t{text}")
    return stream.choice(("\n", "\r\n")).join(lines)


def as_porcupine(ops, stream):
    lines = []
    for op in ops:
        asked = {"f": op["f"], "value": op["arg"], "key": op.get("key")}
        said = {"ok": {"value": op["res"]}, "fail": {"failed": True}, "info": None}[op["status"]]
        fields = {"ClientId": op["process"], "Input": asked, "Call": op["call"]}
        lines.append(json.dumps(fields | {"Output": said, "Return": op["ret"]}))
    stream.shuffle(lines)
    return "\n".join(lines)


TEXTS = (as_jsonl, as_elle, as_edn, as_log, as_porcupine)


def edn(value):
    if isinstance(value, list | tuple):
        words = [f":{v}" if v in ("append", "r") else edn(v) for v in value]
        return f"[{' '.join(words)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{edn(key)} {edn(item)}" for key, item in value.items()) + "}"
    return {None: "nil"}.get(value) or json.dumps(value, ensure_ascii=False)
