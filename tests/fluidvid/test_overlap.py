"""Queues bounded in bytes: order and memory are kept, and whichever side fails, the other does not wait for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from fluidvid.overlap import feed_behind, read_ahead


def one(_: int) -> int:
    return 1


def test_items_keep_their_order_both_ways() -> None:
    taken: list[int] = []
    with read_ahead(range(50), limit=3, size=one) as items, feed_behind(taken.append, limit=3, size=one) as give:
        for item in items:
            give(item)
    assert taken == list(range(50))


def test_no_more_than_the_limit_waits() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    full = threading.Event()
    with read_ahead(source(), limit=40, size=lambda _: 10) as items:
        assert next(items) == 0
        full.wait(0.2)
        assert len(made) <= 1 + 4 + 1  # taken, waiting, and the one that waits for room


def test_an_item_larger_than_the_limit_still_passes() -> None:
    with read_ahead(range(3), limit=1, size=lambda _: 100) as items:
        assert list(items) == [0, 1, 2]


def test_an_error_of_the_source_comes_behind_the_items_before_it() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    seen: list[int] = []
    with pytest.raises(OSError, match="the disk is gone"), read_ahead(source(), limit=9, size=one) as items:
        seen.extend(items)
    assert seen == [1]


class _Broken:
    """Cannot be iterated, or cannot be closed after an item of unknown size."""

    def __init__(self, *, begins: bool) -> None:
        self.begins = begins

    def __iter__(self) -> _Broken:
        if not self.begins:
            raise OSError("no disk")
        return self

    def __next__(self) -> int:
        return 1

    def close(self) -> None:
        raise OSError("the disk is gone")


@pytest.mark.parametrize(("begins", "words"), [(False, "no disk"), (True, "the disk is gone")])
def test_whatever_fails_in_the_source_the_body_does_not_wait_for_ever(begins: bool, words: str) -> None:
    told: list[str] = []

    def size(_: int) -> int:
        raise ValueError("unknown")

    def body() -> None:
        try:
            with read_ahead(_Broken(begins=begins), limit=9, size=size) as items:
                list(items)
        except OSError as error:
            told.append(str(error))

    waiting = threading.Thread(target=body, daemon=True)
    waiting.start()
    waiting.join(5)
    assert told == [words]


def test_leaving_early_ends_the_source_in_its_own_thread() -> None:
    ended: list[str] = []

    def source() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            ended.append(threading.current_thread().name)

    with read_ahead(source(), limit=2, size=one) as items:
        next(items)
    assert ended == ["read ahead"]


def test_an_error_of_the_sink_stops_the_giver() -> None:
    def sink(item: int) -> None:
        if item == 3:
            raise ValueError("full")

    given = 0
    with pytest.raises(ValueError, match="full"), feed_behind(sink, limit=2, size=one) as give:
        for item in range(10_000):
            give(item)
            given += 1
    assert given < 10_000


def test_an_error_of_the_sink_in_the_last_item_is_not_lost() -> None:
    def sink(item: int) -> None:
        raise ValueError("full")

    with pytest.raises(ValueError, match="full"), feed_behind(sink, limit=9, size=one) as give:
        give(1)


def test_an_error_of_the_body_is_the_one_that_is_raised_and_the_rest_is_dropped() -> None:
    begun, go_on = threading.Event(), threading.Event()
    taken: list[int] = []

    def sink(item: int) -> None:
        taken.append(item)
        begun.set()
        go_on.wait(5)

    with pytest.raises(KeyError), feed_behind(sink, limit=9, size=one) as give:
        give(1)
        give(2)
        begun.wait(5)
        threading.Timer(0.05, go_on.set).start()
        raise KeyError("body")
    assert taken == [1]
