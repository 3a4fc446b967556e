"""Clients of a cluster: `Client` for threads, `AsyncClient` for asyncio, over one engine.

Every method takes `timeout` in seconds (None: the client's own) and ends with a result, or raises
`DefiniteError` (not applied) or `IndefiniteError` (may have been applied); `NoQuorumError` is
either, and says that no leader answered in time. An operation that was retried was still applied
at most once. Operations that are pending together are concurrent: no order among them is kept.

    with Client(endpoints) as client:
        client.put(b"key", b"value")
        futures = [client.put_nowait(b"key-%d" % i, b"") for i in range(1000)]
        revisions = [future.result().revision for future in futures]
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar, cast

from cluster.client_bulk import BulkResult, OperationList, PutList, Writes
from cluster.client_engine import Call, Endpoints, Engine
from cluster.client_types import (
    ClientConfig,
    ClientError,
    Completion,
    DefiniteError,
    Get,
    GetResult,
    IndefiniteError,
    KeyValue,
    NoQuorumError,
    Query,
    Range,
    RangeResult,
)
from cluster.closing import Closing
from node import commands
from node.commands import EncodeError, Operation
from node.ports import Outcome
from node.raft.types import NodeId

__all__ = [
    "AsyncClient",
    "BulkResult",
    "Client",
    "ClientConfig",
    "ClientError",
    "ClientFuture",
    "DefiniteError",
    "Endpoints",
    "GetResult",
    "IndefiniteError",
    "KeyValue",
    "NoQuorumError",
    "RangeResult",
]

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)

TIMEOUT_S: Final = 5.0
"""Default deadline of an operation: ten elections of the slowest kind, with retries."""


class ClientFuture(Call, Generic[T]):
    """The result of one operation, sooner or later: at its deadline at the latest.

    A lean stand-in for `concurrent.futures.Future`, whose lock and condition per operation cost
    more than the operation. Waiting takes a lock of its own only if there is something to wait for.
    """

    __slots__ = ("_callbacks", "_completion")

    def __init__(
        self, subject: Operation | Query | Writes, deadline: int, node: NodeId | None
    ) -> None:
        super().__init__(subject, deadline, node)
        self._completion: Completion | None = None
        self._callbacks: list[Callable[[ClientFuture[T]], object]] | None = None

    def done(self) -> bool:
        """Whether the operation has ended."""
        return self._completion is not None

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result, or raise the operation's error; TimeoutError ends only the wait."""
        completion = self._wait(timeout)
        if completion.error is not None:
            raise completion.error
        return cast("T", completion.result)

    def exception(self, timeout: float | None = None) -> ClientError | None:
        """Wait for the end and return the operation's error, if any."""
        return self._wait(timeout).error

    def add_done_callback(self, callback: Callable[[ClientFuture[T]], object]) -> None:
        """Call `callback(self)` when done: at once if it is, else on the client's thread.

        There it must not block, nor wait for an operation of the same client.
        """
        # Safe without a lock, by order: here, append and then look for the completion; in
        # `complete`, set the completion and then take the callbacks. One of the two sees the
        # other, and `_run_callbacks` pops each callback once (list.pop is atomic).
        if self._callbacks is None:
            with _callbacks_lock:
                if self._callbacks is None:
                    self._callbacks = []
        self._callbacks.append(callback)
        if self._completion is not None:
            self._run_callbacks()

    def complete(self, completion: Completion) -> None:
        """End the operation; for the engine."""
        self._completion = completion
        if self._callbacks is not None:
            self._run_callbacks()

    def _run_callbacks(self) -> None:
        callbacks = self._callbacks
        while callbacks:
            try:
                callback = callbacks.pop(0)
            except IndexError:
                return  # another thread took the last one
            try:
                callback(self)
            except Exception:  # the caller's bug must not end the client's thread
                _log.exception("a callback of a client future failed")

    def _wait(self, timeout: float | None) -> Completion:
        if self._completion is None:
            ended = threading.Lock()
            ended.acquire()
            self.add_done_callback(lambda _: ended.release())
            if not ended.acquire(timeout=-1 if timeout is None else timeout):
                raise TimeoutError(f"the operation has not ended after {timeout} s")
        assert self._completion is not None
        return self._completion


_callbacks_lock: Final = threading.Lock()
"""Guards the making of a callback list; shared by all futures, held for nanoseconds."""


def _deliver_to_futures(completed: list[tuple[Call, Completion]]) -> None:
    for call, completion in completed:
        cast("ClientFuture[Any]", call).complete(completion)


def _deadline(timeout: float) -> int:
    return time.monotonic_ns() + int(timeout * 1e9)


Built = TypeVar("Built", Operation, PutList, OperationList)


def _definite(build: Callable[..., Built], *arguments: object) -> Built:
    """Build an operation; a bound that it breaks is a DefiniteError like any other."""
    try:
        return build(*arguments)
    except EncodeError as error:
        raise DefiniteError(str(error)) from None


class Client(Closing):
    """A client for threads; any number of them may use it at once."""

    def __init__(
        self,
        endpoints: Endpoints,
        timeout: float = TIMEOUT_S,
        config: ClientConfig | None = None,
    ) -> None:
        self._timeout = timeout
        self._engine = Engine(endpoints, _deliver_to_futures, config)

    def close(self) -> None:
        """Fail what is pending and end the client's thread. May be called more than once."""
        self._engine.stop()
        self._engine.join()

    def put(self, key: bytes, value: bytes, timeout: float | None = None) -> Outcome:
        """Set a key; OK with its new revision."""
        return self.put_nowait(key, value, timeout).result()

    def delete(self, key: bytes, timeout: float | None = None) -> Outcome:
        """Remove a key; OK, or ABSENT if there was none."""
        return self.delete_nowait(key, timeout).result()

    def cas(
        self, key: bytes, expect: bytes | None, value: bytes, timeout: float | None = None
    ) -> Outcome:
        """Set a key if its value is `expect` (None: if it is absent).

        OK; ABSENT; or CONFLICT, whose detail is the current value, cut at DETAIL_BYTES_MAX.
        """
        return self.cas_nowait(key, expect, value, timeout).result()

    def batch(self, operations: Sequence[Operation], timeout: float | None = None) -> Outcome:
        """Apply operations of `node.commands` all or none; OK or BATCH_ABORTED."""
        return self.batch_nowait(operations, timeout).result()

    def put_many(
        self, pairs: Iterable[tuple[bytes, bytes]], timeout: float | None = None
    ) -> BulkResult:
        """Set many keys; one outcome each. Raises the error of the first put that failed.

        Not atomic (`batch` is), and in no order: each put is an operation of its own.
        """
        return self.put_many_nowait(pairs, timeout).result().check()

    def get(
        self, key: bytes, timeout: float | None = None, *, node: NodeId | None = None
    ) -> GetResult:
        """Read a key: linearizable, or what `node` has applied."""
        return self.get_nowait(key, timeout, node=node).result()

    def range(
        self, query: Range, timeout: float | None = None, *, node: NodeId | None = None
    ) -> RangeResult:
        """Read keys in order: linearizable within each group, or what `node` has applied."""
        return self.range_nowait(query, timeout, node=node).result()

    def put_nowait(
        self, key: bytes, value: bytes, timeout: float | None = None
    ) -> ClientFuture[Outcome]:
        """Start a `put`."""
        return self._submit(_definite(commands.put, key, value), timeout)

    def delete_nowait(self, key: bytes, timeout: float | None = None) -> ClientFuture[Outcome]:
        """Start a `delete`."""
        return self._submit(_definite(commands.delete, key), timeout)

    def cas_nowait(
        self, key: bytes, expect: bytes | None, value: bytes, timeout: float | None = None
    ) -> ClientFuture[Outcome]:
        """Start a `cas`."""
        return self._submit(_definite(commands.cas, key, expect, value), timeout)

    def batch_nowait(
        self, operations: Sequence[Operation], timeout: float | None = None
    ) -> ClientFuture[Outcome]:
        """Start a `batch`."""
        return self._submit(_definite(commands.batch, operations), timeout)

    def put_many_nowait(
        self, pairs: Iterable[tuple[bytes, bytes]], timeout: float | None = None
    ) -> ClientFuture[BulkResult]:
        """Start many puts under one future: the cheapest way to write a lot.

        It ends when all of them have. `BulkResult.errors` says which failed; the future itself
        fails (DefiniteError) only if none was taken in.
        """
        return self._submit(_definite(PutList, pairs), timeout)

    def submit_many(
        self, operations: Iterable[Operation], timeout: float | None = None
    ) -> ClientFuture[BulkResult]:
        """Start many operations of `node.commands` of any kind, as `put_many_nowait` does puts."""
        return self._submit(_definite(OperationList, operations), timeout)

    def get_nowait(
        self, key: bytes, timeout: float | None = None, *, node: NodeId | None = None
    ) -> ClientFuture[GetResult]:
        """Start a `get`."""
        return self._submit(Get(key), timeout, node)

    def range_nowait(
        self, query: Range, timeout: float | None = None, *, node: NodeId | None = None
    ) -> ClientFuture[RangeResult]:
        """Start a `range`."""
        return self._submit(query, timeout, node)

    def _submit(
        self, subject: Operation | Query | Writes, timeout: float | None, node: NodeId | None = None
    ) -> ClientFuture[Any]:
        deadline = _deadline(self._timeout if timeout is None else timeout)
        future: ClientFuture[Any] = ClientFuture(subject, deadline, node)
        self._engine.submit(future)
        return future


class _AsyncCall(Call):
    """A call and the asyncio future that it completes, on the loop's own thread."""

    __slots__ = ("future",)

    def __init__(
        self,
        subject: Operation | Query | Writes,
        deadline: int,
        node: NodeId | None,
        future: asyncio.Future[Any],
    ) -> None:
        super().__init__(subject, deadline, node)
        self.future = future


def _complete_on_loop(completed: list[tuple[Call, Completion]]) -> None:
    for call, completion in completed:
        future = cast("_AsyncCall", call).future
        if future.done():
            continue  # cancelled by its caller, who asked not to know
        if completion.error is not None:
            future.set_exception(completion.error)
        else:
            future.set_result(completion.result)


class AsyncClient:
    """A client for one asyncio event loop; made, used and closed on it.

    The `_nowait` methods return asyncio futures. Cancelling one drops its answer, not its effect.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        timeout: float = TIMEOUT_S,
        config: ClientConfig | None = None,
    ) -> None:
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._engine = Engine(endpoints, self._deliver, config)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Fail what is pending and end the client's thread. May be called more than once."""
        # The thread ends within milliseconds and never waits for the loop.
        self._engine.stop()
        self._engine.join()
        # One turn of the loop, so that the last completions reach their futures.
        await asyncio.sleep(0)

    async def put(self, key: bytes, value: bytes, timeout: float | None = None) -> Outcome:
        """As `Client.put`."""
        return await self.put_nowait(key, value, timeout)

    async def delete(self, key: bytes, timeout: float | None = None) -> Outcome:
        """As `Client.delete`."""
        return await self.delete_nowait(key, timeout)

    async def cas(
        self, key: bytes, expect: bytes | None, value: bytes, timeout: float | None = None
    ) -> Outcome:
        """As `Client.cas`."""
        return await self.cas_nowait(key, expect, value, timeout)

    async def batch(self, operations: Sequence[Operation], timeout: float | None = None) -> Outcome:
        """As `Client.batch`."""
        return await self.batch_nowait(operations, timeout)

    async def put_many(
        self, pairs: Iterable[tuple[bytes, bytes]], timeout: float | None = None
    ) -> BulkResult:
        """As `Client.put_many`."""
        return (await self.put_many_nowait(pairs, timeout)).check()

    async def get(
        self, key: bytes, timeout: float | None = None, *, node: NodeId | None = None
    ) -> GetResult:
        """As `Client.get`."""
        return await self.get_nowait(key, timeout, node=node)

    async def range(
        self, query: Range, timeout: float | None = None, *, node: NodeId | None = None
    ) -> RangeResult:
        """As `Client.range`."""
        return await self.range_nowait(query, timeout, node=node)

    def put_nowait(
        self, key: bytes, value: bytes, timeout: float | None = None
    ) -> asyncio.Future[Outcome]:
        """Start a `put`."""
        return self._submit(_definite(commands.put, key, value), timeout)

    def delete_nowait(self, key: bytes, timeout: float | None = None) -> asyncio.Future[Outcome]:
        """Start a `delete`."""
        return self._submit(_definite(commands.delete, key), timeout)

    def cas_nowait(
        self, key: bytes, expect: bytes | None, value: bytes, timeout: float | None = None
    ) -> asyncio.Future[Outcome]:
        """Start a `cas`."""
        return self._submit(_definite(commands.cas, key, expect, value), timeout)

    def batch_nowait(
        self, operations: Sequence[Operation], timeout: float | None = None
    ) -> asyncio.Future[Outcome]:
        """Start a `batch`."""
        return self._submit(_definite(commands.batch, operations), timeout)

    def put_many_nowait(
        self, pairs: Iterable[tuple[bytes, bytes]], timeout: float | None = None
    ) -> asyncio.Future[BulkResult]:
        """As `Client.put_many_nowait`."""
        return self._submit(_definite(PutList, pairs), timeout)

    def submit_many(
        self, operations: Iterable[Operation], timeout: float | None = None
    ) -> asyncio.Future[BulkResult]:
        """As `Client.submit_many`."""
        return self._submit(_definite(OperationList, operations), timeout)

    def get_nowait(
        self, key: bytes, timeout: float | None = None, *, node: NodeId | None = None
    ) -> asyncio.Future[GetResult]:
        """Start a `get`."""
        return self._submit(Get(key), timeout, node)

    def range_nowait(
        self, query: Range, timeout: float | None = None, *, node: NodeId | None = None
    ) -> asyncio.Future[RangeResult]:
        """Start a `range`."""
        return self._submit(query, timeout, node)

    def _submit(
        self, subject: Operation | Query | Writes, timeout: float | None, node: NodeId | None = None
    ) -> asyncio.Future[Any]:
        deadline = _deadline(self._timeout if timeout is None else timeout)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._engine.submit(_AsyncCall(subject, deadline, node, future))
        return future

    def _deliver(self, completed: list[tuple[Call, Completion]]) -> None:
        """Hand one turn's completions to the loop in one call; on the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(_complete_on_loop, completed)
        except RuntimeError:
            if not self._loop.is_closed():
                raise
            # The loop is gone without a close(): nobody is left to tell.
