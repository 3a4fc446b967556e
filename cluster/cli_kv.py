"""`raftdeck kv`: one operation on the replicated map. Bytes in, bytes out."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cluster.cli_support import (
    CONTEXT,
    LazyGroup,
    attach,
    cluster_option,
    json_option,
    note,
    print_json,
    verb,
)
from cluster.exits import CommandError, Exit

if TYPE_CHECKING:
    from cluster.client import Client, KeyValue
    from cluster.local import LocalCluster
    from node.ports import Outcome
    from node.raft.types import NodeId

__all__ = ["client_errors", "kv"]

KV_SCHEMA: Final = "raftdeck.kv/1"
_CODES: Final = (
    "OK", "ABSENT", "CONFLICT", "SESSION_EXPIRED", "STALE", "BAD_OPERATION", "BATCH_ABORTED",
)  # fmt: skip
_timeout: Final = click.option(
    "--timeout", type=float, default=5.0, metavar="S", help="Until an answer. [5]"
)
_node: Final = click.option(
    "--node", metavar="NODE", help="Read what this node has applied (implies --local)."
)
_local: Final = click.option(
    "--local", is_flag=True, help="Read without asking the leader: it may be old."
)
_file: Final = click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Take the value from a file.",
)


@click.group(
    "kv",
    cls=LazyGroup,
    verbs={},
    context_settings=CONTEXT,
    epilog="\b\nExample:\n  raftdeck kv put colour blue",
)
def kv() -> None:
    """Read and write keys; reads are linearizable unless --local."""


@verb(
    "put",
    example="raftdeck kv put colour blue\nraftdeck kv put photo --file cat.jpg\ndate | raftdeck kv put now",
)
@click.argument("key")
@click.argument("value", required=False)
@_file
@_timeout
@cluster_option
@json_option
def put(
    key: str, value: str | None, path: Path | None, *, timeout: float, cluster: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Set KEY to VALUE, to a file's content, or to standard input. Prints the new revision."""
    name, content = _key(key), _value(value, path)
    with _client(attach(cluster)) as client:
        _print_outcome("put", name, client.put(name, content, timeout), as_json=as_json)


@verb("del", example="raftdeck kv del colour")
@click.argument("key")
@_timeout
@cluster_option
@json_option
def delete(key: str, timeout: float, cluster: str | None, as_json: bool) -> None:
    """Remove KEY; that it was absent already is no error."""
    name = _key(key)
    with _client(attach(cluster)) as client:
        _print_outcome("del", name, client.delete(name, timeout), as_json=as_json)


@verb("cas", example="raftdeck kv cas colour blue green\nraftdeck kv cas --absent lock me")
@click.argument("key")
@click.argument("values", nargs=-1, required=True, metavar="[EXPECTED] VALUE")
@click.option("--absent", is_flag=True, help="Expect that there is no such key.")
@_timeout
@cluster_option
@json_option
def cas(
    key: str, values: tuple[str, ...], absent: bool, *, timeout: float, cluster: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Set KEY to VALUE if it is EXPECTED (or, with --absent, if there is none).

    Exits with 1, and prints the value found, if it is not.
    """
    if len(values) != (1 if absent else 2):
        raise click.UsageError("give EXPECTED and VALUE, or --absent and VALUE")
    name, content = _key(key), _bounded(os.fsencode(values[-1]))
    expected = None if absent else _bounded(os.fsencode(values[0]))
    with _client(attach(cluster)) as client:
        outcome = client.cas(name, expected, content, timeout)
    _print_outcome("cas", name, outcome, as_json=as_json)
    if outcome.code != 0:
        found = f"it is {outcome.detail!r:.200}" if _CODES[outcome.code] == "CONFLICT" else "absent"
        raise CommandError(Exit.FAILED, f"key {key!r} was not changed: {found}")


@verb("get", example="raftdeck kv get colour\nraftdeck kv get colour --local --node n3")
@click.argument("key")
@_local
@_node
@_timeout
@cluster_option
@json_option
def get(
    key: str, local: bool, node: str | None, *, timeout: float, cluster: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Print the value of KEY, byte for byte. Exits with 1 if there is no such key."""
    name = _key(key)
    found = attach(cluster)
    reader = _reader(found, node, local=local)
    with _client(found) as client:
        result = client.get(name, timeout, node=reader)
    if as_json:
        item = None if result.item is None else _item(result.item)
        print_json(
            {"schema": KV_SCHEMA, "op": "get", "revision": result.revision, "node": reader}
            | {"found": item is not None, "item": item}
        )
    elif result.item is not None:
        click.echo(result.item.value, nl=False)
    if result.item is None:
        raise CommandError(Exit.FAILED, f"key {key!r} is absent")


@verb(
    "range",
    example="raftdeck kv range\nraftdeck kv range a b --limit 10\nraftdeck kv range --prefix user/",
)
@click.argument("start", default="")
@click.argument("end", default="")
@click.option("--prefix", metavar="TEXT", help="The keys that begin so.")
@click.option("--limit", type=click.IntRange(min=0), default=0, metavar="N", help="0: all. [0]")
@_local
@_node
@_timeout
@cluster_option
@json_option
def range_(start: str, end: str, prefix: str | None, **options: Any) -> None:
    """Print START ≤ key < END in order, one "key TAB value" a line."""
    if prefix is not None and (start or end):
        raise click.UsageError("give --prefix, or START and END")
    first, last = os.fsencode(start), os.fsencode(end)
    if prefix is not None:
        first = os.fsencode(prefix)
        last = after_prefix(first)
    found = attach(options["cluster"])
    reader = _reader(found, options["node"], local=options["local"])
    with _client(found) as client:
        items = list(_items(client, (first, last), options["limit"], options["timeout"], reader))
    if options["as_json"]:
        print_json(
            {"schema": KV_SCHEMA, "op": "range", "node": reader}
            | {"count": len(items), "items": [_item(item) for item in items]}
        )
        return
    click.echo(b"".join(item.key + b"\t" + item.value + b"\n" for item in items), nl=False)


for _command in (put, get, delete, range_, cas):
    kv.add_command(_command)


def after_prefix(prefix: bytes) -> bytes:
    """Return the first key after all that begin with a prefix; empty if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b""


def _items(
    client: Client, bounds: tuple[bytes, bytes], limit: int, timeout: float, node: NodeId | None
) -> Iterator[KeyValue]:
    """Yield the items of a range, asking again where the servers' bound cut it."""
    from cluster.client_types import Range

    start, end = bounds
    left = limit
    while True:
        result = client.range(Range(start, end, left), timeout, node=node)
        yield from result.items
        left -= len(result.items)
        if not result.more or not result.items or (limit and left <= 0):
            return
        start = result.items[-1].key + b"\0"


def _key(text: str) -> bytes:
    from node.limits import KEY_BYTES_MAX

    key = os.fsencode(text)
    if not 0 < len(key) <= KEY_BYTES_MAX:
        raise CommandError(
            Exit.USAGE, f"a key of {len(key)} bytes; a key has 1 to {KEY_BYTES_MAX} bytes"
        )
    return key


def _value(text: str | None, path: Path | None) -> bytes:
    """Return the value from the one place that was given."""
    from node.limits import VALUE_BYTES_MAX

    if text is not None and path is not None:
        raise click.UsageError("give VALUE or --file, not both")
    if text is not None:
        return _bounded(os.fsencode(text))
    if path is not None:
        with path.open("rb") as file:
            return _bounded(file.read(VALUE_BYTES_MAX + 1))
    if sys.stdin.isatty():
        raise click.UsageError("give VALUE or --file, or send the value to standard input")
    return _bounded(sys.stdin.buffer.read(VALUE_BYTES_MAX + 1))


def _bounded(value: bytes) -> bytes:
    from node.limits import VALUE_BYTES_MAX

    if len(value) > VALUE_BYTES_MAX:
        raise CommandError(
            Exit.USAGE, f"a value of more than {VALUE_BYTES_MAX} bytes; that is the limit"
        )
    return value


def _reader(cluster: LocalCluster, node: str | None, *, local: bool) -> NodeId | None:
    """Return the node to read from, or None for a linearizable read."""
    from cluster.selectors import select
    from node.raft.types import NodeId

    if node is None and not local:
        return None
    selection = select(node or "random", cluster.frame())
    for text in selection.notes:
        note(text)
    if len(selection.nodes) != 1:
        raise CommandError(Exit.USAGE, f"--node {node!r} stands for several nodes; name one")
    return NodeId(selection.nodes[0])


@contextlib.contextmanager
def _client(cluster: LocalCluster) -> Iterator[Client]:
    with client_errors(), cluster.client() as client:
        yield client


@contextlib.contextmanager
def client_errors() -> Iterator[None]:
    """Turn a client's errors into exit codes: 6 without a quorum, else 1."""
    from cluster.client_types import ClientError, DefiniteError, NoQuorumError

    try:
        yield
    except ClientError as error:
        definite = isinstance(error, DefiniteError)
        effect = "it was not applied" if definite else "it may have been applied"
        code = Exit.NO_QUORUM if isinstance(error, NoQuorumError) else Exit.FAILED
        raise CommandError(code, f"{error} ({effect}); see: raftdeck status") from None


def _print_outcome(operation: str, key: bytes, outcome: Outcome, *, as_json: bool) -> None:
    code = _CODES[outcome.code]
    if as_json:
        document = {"schema": KV_SCHEMA, "op": operation, "code": code}
        document |= _bytes("key", key) | _bytes("found", outcome.detail)
        print_json(document | {"revision": outcome.revision})
        return
    if code == "OK":
        click.echo(outcome.revision)
    else:
        note(code.lower())


def _item(item: KeyValue) -> dict[str, Any]:
    """Return an item for JSON."""
    return (
        _bytes("key", item.key)
        | _bytes("value", item.value)
        | {
            "create_revision": item.create_revision,
            "mod_revision": item.mod_revision,
            "version": item.version,
        }
    )


def _bytes(name: str, content: bytes) -> dict[str, str]:
    """Return bytes as text where they are UTF-8, else as base64 under another name."""
    import base64

    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(content).decode()}
