"""Work that overlaps: a source read ahead and a sink fed behind, through queues bounded in bytes.

The first error wins: it reaches the other side in place of the next item, and nobody waits for ever.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Pipe(Generic[T]):
    """A queue between one producer and one consumer, bounded in bytes; one item always fits.

    Args:
        limit: bytes that may wait.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[tuple[T, int]] = deque()
        self._held = 0
        self._change = threading.Condition()
        self._finished = False
        self._left = False
        self._error: BaseException | None = None

    def put(self, item: T, size: int) -> bool:
        """Wait for room and add an item of `size` bytes; False if the consumer has left.

        Raises:
            BaseException: what the consumer failed with.
        """
        with self._change:
            self._change.wait_for(lambda: self._left or not self._items or self._held + size <= self._limit)
            if self._left:
                if self._error is not None:
                    raise self._error
                return False
            self._items.append((item, size))
            self._held += size
            self._change.notify_all()
            return True

    def finish(self, error: BaseException | None = None) -> None:
        """No more items; the consumer meets `error` behind the last one."""
        with self._change:
            self._finished = True
            self._error = self._error or error
            self._change.notify_all()

    def leave(self, error: BaseException | None = None) -> None:
        """The consumer takes no more: waiting items are dropped, the producer's next `put` meets `error`."""
        with self._change:
            self._left = True
            self._error = self._error or error
            self._items.clear()
            self._change.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._items or self._finished)
                if not self._items:
                    if self._error is not None:
                        raise self._error
                    return
                item, size = self._items.popleft()
                self._held -= size
                self._change.notify_all()
            yield item
            del item  # a picture must not live on while the next one is waited for


@contextmanager
def read_ahead(source: Iterable[T], *, limit: int, size: Callable[[T], int]) -> Iterator[Iterator[T]]:
    """Iterate `source` in a thread of its own while the body works on what came before.

    Args:
        source: its errors are raised in the body, behind the items that came before them.
        limit: bytes that may wait.
        size: bytes of an item.
    """
    pipe: Pipe[T] = Pipe(limit)

    def work() -> None:
        failure: BaseException | None = None
        try:
            iterator = iter(source)
            try:
                for item in iterator:
                    if not pipe.put(item, size(item)):
                        break
                    del item
            finally:
                close = getattr(iterator, "close", None)
                if close is not None:
                    close()
        except BaseException as error:  # noqa: BLE001 - raised where the items are taken
            failure = error
        pipe.finish(failure)

    thread = threading.Thread(target=work, name="read ahead", daemon=True)
    thread.start()
    try:
        yield iter(pipe)
    finally:
        pipe.leave()
        thread.join()


@contextmanager
def feed_behind(sink: Callable[[T], None], *, limit: int, size: Callable[[T], int]) -> Iterator[Callable[[T], None]]:
    """Give the body a function that hands items to `sink` in a thread of its own, in order.

    Leaving the body normally waits until everything was taken; an error of the sink is raised by the next call or then.

    Args:
        sink: takes one item.
        limit: bytes that may wait.
        size: bytes of an item.
    """
    pipe: Pipe[T] = Pipe(limit)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for item in pipe:
                sink(item)
                del item
        except BaseException as error:  # noqa: BLE001 - raised where the items are given
            failures.append(error)
            pipe.leave(error)

    def give(item: T) -> None:
        pipe.put(item, size(item))

    thread = threading.Thread(target=work, name="feed behind", daemon=True)
    thread.start()
    try:
        yield give
        pipe.finish()
        thread.join()
    except BaseException:
        pipe.leave()
        pipe.finish()
        thread.join()
        raise
    if failures:
        raise failures[0]
