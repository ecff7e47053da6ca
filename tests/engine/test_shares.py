from __future__ import annotations

import threading
import time
from functools import partial

import pytest
import torch
from torch import Tensor

from fluidvid.engine.shares import Shares


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_shares_make_the_whole(rows: int, threads: int) -> None:
    seen: list[tuple[int, str, int]] = []

    def work(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((len(x), threading.current_thread().name, torch.get_num_threads()))
        return x + y, x.sum(1)

    before = torch.get_num_threads()
    x, y = torch.randn(rows, 4), torch.randn(rows, 4)
    total, sums = Shares(torch.device("cpu"), threads)(work, x, y)
    torch.testing.assert_close(total, x + y)
    torch.testing.assert_close(sums, x.sum(1))
    shared = min(threads, rows) > 1
    assert len(seen) == (min(threads, rows) if shared else 1)
    assert not shared or all(name.startswith("share") and own == 1 for _, name, own in seen)
    assert torch.get_num_threads() == before


def test_an_error_in_a_share_is_the_callers() -> None:
    def work(x: Tensor) -> tuple[Tensor]:
        if float(x[0]) > 1:
            raise ValueError("the second share")
        return (x,)

    with pytest.raises(ValueError, match="the second share"):
        Shares(torch.device("cpu"), 2)(work, torch.arange(4.0))


def test_jobs_run_at_once_and_answer_in_order() -> None:
    """Each waits for the other: one after another they would never end."""
    met = threading.Barrier(2, timeout=60)

    def job(name: str) -> tuple[str, int]:
        met.wait()
        return name, torch.get_num_threads()

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        shares = Shares(torch.device("cpu"), 2)
        assert shares.each([partial(job, "a"), partial(job, "b")]) == [("a", 1), ("b", 1)]
        # A job that asks for more does its own jobs itself.
        inner = shares.each([lambda: shares.each([threading.get_ident, threading.get_ident]) for _ in range(2)])
        assert all(len(set(who)) == 1 and threading.get_ident() not in who for who in inner)
    finally:
        torch.set_num_threads(threads)


def test_who_has_one_thread_does_all_jobs_itself() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert set(Shares(torch.device("cpu"), 2).each([threading.get_ident] * 3)) == {threading.get_ident()}
    finally:
        torch.set_num_threads(threads)


def test_no_more_jobs_run_at_once_than_the_caller_has_threads() -> None:
    running, most, lock, two = 0, 0, threading.Lock(), threading.Barrier(2)

    def job() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        two.wait(timeout=60)  # the eight go in pairs, however busy the machine is
        time.sleep(0.02)
        with lock:
            running -= 1

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        Shares(torch.device("cpu"), 4).each([job] * 8)
    finally:
        torch.set_num_threads(before)
    assert most == 2


def test_an_error_in_a_job_is_the_callers() -> None:
    def job(number: int) -> int:
        if number == 3:
            raise ValueError("the fourth job")
        return number

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="the fourth job"):
            Shares(torch.device("cpu"), 2).each([partial(job, number) for number in range(6)])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("wrong", [0, 1])
def test_behind_an_error_no_more_jobs_are_begun(wrong: int) -> None:
    """Nor behind a signal: the interpreter waits at its end for what its threads have taken on."""
    begun, failed = list[int](), threading.Event()

    def job(number: int) -> None:
        begun.append(number)
        if number == wrong:
            threading.Timer(0.2, failed.set).start()
            raise KeyboardInterrupt
        failed.wait(20)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    shares = Shares(torch.device("cpu"), 2)
    try:
        with pytest.raises(KeyboardInterrupt):
            shares.each([partial(job, number) for number in range(6)])
        assert shares._pool is not None
        shares._pool.shutdown()
    finally:
        failed.set()
        torch.set_num_threads(before)
    assert set(begun) <= {0, 1}


def test_who_is_to_be_heeded_can_have_no_jobs_begun() -> None:
    def over() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        Shares(torch.device("cpu"), 1, heed=over).each([lambda: pytest.fail("it was begun")])
