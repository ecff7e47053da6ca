"""Run networks at once, one thread each, on shares of a batch or side by side: two small runs beat one split inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Shares:
    """Calls a function of batches from as many threads as torch has, each with a share of the rows.

    On other devices than the CPU, with one thread or one row it calls the function as it is.

    Args:
        device: where the batches are.
        threads: None: `torch.get_num_threads()` at this moment.
        heed: called before jobs are begun; may raise to have none begun.
    """

    def __init__(
        self, device: torch.device, threads: int | None = None, *, heed: Callable[[], None] = lambda: None
    ) -> None:
        self._heed = heed
        self.count = (threads or torch.get_num_threads()) if device.type == "cpu" else 1
        # Each worker computes with one thread of its own; the caller's number of threads stays.
        self._pool = (
            ThreadPoolExecutor(self.count, "share", initializer=torch.set_num_threads, initargs=(1,))
            if self.count > 1
            else None
        )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One thread for what the caller computes between shares: it is too little to wait for others that are busy."""
        if self._pool is None:
            yield
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def __call__(self, work: Callable[..., tuple[Tensor, ...]], *batches: Tensor) -> tuple[Tensor, ...]:
        """`work(*batches)`: tensors of `(N, ...)` in, a tuple of tensors of `(N, ...)` out. For inference only."""
        rows = len(batches[0])
        if self._pool is None or rows < 2:
            return work(*batches)

        def share(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            with torch.inference_mode():
                return work(*parts)

        parts = zip(*(batch.tensor_split(min(self.count, rows)) for batch in batches), strict=True)
        done = list(self._pool.map(share, parts))
        return tuple(torch.cat(column) for column in zip(*done, strict=True))

    def each(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """The results of jobs that do not wait for each other, begun in this order: the longest should come first.

        As many at once as the caller has threads; who has but one, as a job itself has, does them one after another.
        """
        self._heed()
        wide = min(torch.get_num_threads(), self.count, len(jobs))
        if self._pool is None or wide < 2:
            return [job() for job in jobs]
        waiting = enumerate(jobs)  # each takes the next one
        results: dict[int, T] = {}

        def work() -> None:
            with _none_left(waiting):
                for place, job in waiting:
                    results[place] = job()

        with _none_left(waiting):  # behind a signal, too: the process would wait for them
            for done in [self._pool.submit(work) for _ in range(wide)]:
                done.result()
        return [results[place] for place in range(len(jobs))]


@contextmanager
def _none_left(waiting: Iterator[object]) -> Iterator[None]:
    """Behind an error nothing of what is waiting is begun."""
    try:
        yield
    except BaseException:
        for _ in waiting:
            pass
        raise
