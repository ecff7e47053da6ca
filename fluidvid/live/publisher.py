"""One output as the session sees it: a bounded queue in front of a worker process under a watchdog.

A worker that fails is replaced after a while, one that is frozen is killed first. The session never waits for either.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fluidvid.live.addresses import Address
from fluidvid.live.backoff import Backoff
from fluidvid.live.encoding import VIDEO, Coded
from fluidvid.live.messages import DISK_FULL, LOGIN_REFUSED, Opening, Told
from fluidvid.live.sinks import ASIDE, delete_published, set_aside
from fluidvid.signals import kept_from_children

MAX_WAITING = 32 * 2**20
"""Bytes of packets that may wait for a worker; beyond, everything up to the next key frame is dropped. In a live output
that is also done when the oldest has waited for the timeout: a slow receiver would see what was minutes ago.
"""
STARTING = 30.0
"""Seconds that a process may take to start on a busy machine."""
_TICK = 0.2


@dataclass(frozen=True)
class OutputSettings:
    """`transport` tcp or udp, `segment` seconds, `timeout` seconds of silence, `retries` (0 = for ever)."""

    transport: str
    segment: float
    timeout: float
    retries: int


@dataclass
class OutputAccount:
    """What became of one output: pictures written and dropped, reconnects, and why it was given up.

    At the end of a run every published picture was either written or dropped.
    """

    written: int = 0
    dropped: int = 0
    reconnects: int = 0
    connected: bool = False
    gave_up: str = ""


class Publisher:
    """Publishes packets to one address.

    Args:
        address: where to.
        settings: see `OutputSettings`.
        say: takes one line for the user; called from threads.
        need_key: asks the encoder for a key frame, since a new worker has to begin with one; called from threads.
        took: called with the latency in seconds of every picture that was written; from threads.
        gone: called when it was given up; from its thread.
    """

    def __init__(
        self,
        address: Address,
        settings: OutputSettings,
        *,
        say: Callable[[str], None],
        need_key: Callable[[], None],
        took: Callable[[float], None],
        gone: Callable[[], None],
    ) -> None:
        self.address, self._settings = address, settings
        self._say, self._need_key, self._took, self._gone = say, need_key, took, gone
        self.account = OutputAccount()
        self._stores = address.kind in ("file", "segments", "hls")
        self._description = b""
        self._queue: deque[tuple[Coded, float]] = deque()  # with the time since which they wait
        self._waiting = 0
        self._from_key = True  # drop until the next key frame
        self._ending = self._incomplete = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"publish {address.kind}", daemon=True)

    def start(self, description: bytes) -> str:
        """Begin, unless it was closed already; `description` is `LiveEncoder.description`.

        Returns:
            What became of the parts of an earlier run, if there were any.

        Raises:
            OutputError: they are in the way.
        """
        note = ""
        with self._change:
            if self._ending:
                return note
            self._description = description
            pattern = self.address.pattern
            if pattern is not None and self.address.kind == "hls" and (gone := delete_published(pattern)):
                self._say(f"{self.address.shown}: segments of an earlier run of fluidvid are deleted: {gone}")
            if pattern is not None and (old := set_aside(pattern)):
                note = f"{self.address.shown}: older parts are moved aside, to NAME{ASIDE}, and may be raw: {old}"
                self._say(note)
            if self.address.kind == "hls":  # workers go on with the playlist of the one before, not of another run
                with suppress(OSError):
                    Path(self.address.url).unlink()
            self._thread.start()
        return note

    @property
    def gave_up(self) -> str:
        """Why nothing is published here any more, or an empty text."""
        return self.account.gave_up

    @property
    def given_up(self) -> str:
        """In one line that it was given up, or at the end is not complete, why, and what to do."""
        told = f"{self.address.shown}: {self.gave_up}: {'not complete' if self._incomplete else 'given up'}"
        if self.gave_up in (LOGIN_REFUSED, DISK_FULL):
            return told
        if self.address.kind == "preview":
            return f"{told}; choose another port, as in preview:8093"
        if self._stores:
            return f"{told}; check that it can be written, or choose another OUT"
        longer = " (--retries 0 tries for ever)" if self._settings.retries else ""
        return f"{told}; check that the server is on and takes this address{longer}"

    def publish(self, packet: Coded) -> None:
        """Hand over one packet; never blocks."""
        with self._change:
            self._make_room(len(packet.data))
            picture = packet.stream == VIDEO
            # A live output begins with the present, not with what waited for it to open.
            closed = self._ending or self.account.gave_up or not (self.account.connected or self._stores)
            if closed or (self._from_key and not (picture and packet.key)):
                self.account.dropped += picture
                return
            self._from_key = False
            self._queue.append((packet, time.monotonic()))
            self._waiting += len(packet.data)
            self._change.notify_all()

    def _make_room(self, size: int) -> None:
        """Drop what waits if there is too much of it, or if it has waited too long; the lock is held."""
        waited = time.monotonic() - self._queue[0][1] if self._queue else 0.0
        late = not self._stores and waited > self._settings.timeout
        if late or self._waiting + size > MAX_WAITING:
            if self.account.connected:
                self._say(f"{self.address.shown}: too slow, {waited:.0f} s behind: it goes on with the next key frame")
            self._drop_waiting()

    def _drop_waiting(self) -> None:
        """Forget what waits and go on with the next key frame; the lock is held."""
        self.account.dropped += sum(packet.stream == VIDEO for packet, _ in self._queue)
        self._queue.clear()
        self._waiting = 0
        self._from_key = True
        self._need_key()

    def close(self) -> None:
        """Write what waits and the trailer, for at most the timeout, and end the worker."""
        with self._change:
            self._ending = True
            self._change.notify_all()
        if self._thread.ident is not None:
            limit = 2 * self._settings.timeout + 5
            self._thread.join(limit)
            if self._thread.is_alive():
                self._unfinished(f"its end was not written within {limit:g} s")

    def _run(self) -> None:
        backoff = Backoff(self._settings.retries)
        worked = False
        while True:
            worker = _Worker(self, backoff)
            reason, permanent = worker.run()
            worked = worked or worker.opened
            self.account.connected = False
            if self._ending:
                self._unfinished(reason)
                return
            wait = None if permanent and not worked else backoff.failed()
            if wait is None:
                with self._change:
                    self.account.gave_up = reason
                    self._drop_waiting()
                self._say(self.given_up)
                self._gone()
                return
            self.account.reconnects += 1
            self._say(f"{self.address.shown}: {reason}; trying again in {wait:g} s")
            with self._change:
                self._drop_waiting()
                self._change.wait_for(lambda: self._ending, wait)
                if not self._ending:
                    self._drop_waiting()
            if self._ending:
                self._unfinished(reason)
                return

    def _unfinished(self, reason: str) -> None:
        """The run is over and this output without its end, if there is a reason."""
        with self._change:
            self._drop_waiting()
        if reason and not self._incomplete:
            self.account.gave_up, self._incomplete = reason, True
            self._say(f"{self.address.shown}: not finished properly: {reason}")

    def _opened(self, notes: str) -> None:
        with self._change:
            self.account.connected = True
            if not self._stores:
                self._from_key = True
                self._need_key()
        self._say(f"{self.address.shown}: publishing" + (f" ({notes})" if notes else ""))

    def _next(self, ended: Callable[[], bool]) -> Coded | None:
        """The next packet, waiting for it; None: no more, or the worker has ended."""
        with self._change:
            self._change.wait_for(lambda: self._queue or self._ending or ended())
            if not self._queue:
                return None
            packet, _ = self._queue.popleft()
            self._waiting -= len(packet.data)
            return packet

    def _lost(self, pictures: int) -> None:
        """So many went to a worker that ended before it had written them."""
        with self._change:
            self.account.dropped += pictures


class _Worker:
    """One life of the worker process."""

    def __init__(self, publisher: Publisher, backoff: Backoff) -> None:
        self._publisher, self._backoff = publisher, backoff
        self._timeout = publisher._settings.timeout
        self._sent: deque[tuple[bool, float]] = deque()  # packets under way: picture?, arrived
        self._progress = time.monotonic()
        self._started = self._closing = self._closed = False
        self.opened = False
        self._ended = threading.Event()
        self._reason, self._permanent = "", False

    def run(self) -> tuple[str, bool]:
        """Feed one worker until it ends; why it failed (empty if it did not), and whether for good."""
        publisher = self._publisher
        try:
            with kept_from_children():
                process = subprocess.Popen(
                    [sys.executable, "-m", "fluidvid.live.muxing"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,  # nothing of an address may reach a log; failures come over stdout
                    start_new_session=True,
                )
        except OSError as error:  # no memory, or too many processes or open files: may pass
            return f"the worker cannot be started ({error.strerror})", False
        assert process.stdin is not None and process.stdout is not None
        threads = [
            threading.Thread(target=self._listen, args=(process.stdout,), daemon=True),
            threading.Thread(target=self._watch, args=(process,), daemon=True),
        ]
        try:
            for thread in threads:
                thread.start()
        except RuntimeError as error:  # too many threads
            self._reason = f"the worker cannot be started ({error})"
            process.kill()
            self._ended.set()
        settings = publisher._settings
        try:
            opening = Opening(publisher.address, publisher._description, settings.transport, settings.segment)
            with suppress(BrokenPipeError):  # the worker ended; `_listen` knows why
                _send(process.stdin, opening)
                self._feed(process.stdin)
        finally:
            self._ended.wait()  # `_watch` sees to it
            process.kill()
            process.wait()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            for pipe in (process.stdin, process.stdout):
                with suppress(BrokenPipeError):
                    pipe.close()
            publisher._lost(sum(picture for picture, _ in self._sent))
        return self._reason, self._permanent

    def _feed(self, pipe: IO[bytes]) -> None:
        while not self._ended.is_set():
            packet = self._publisher._next(self._ended.is_set)
            if packet is None and self._ended.is_set():
                return
            self._progress = time.monotonic() if not self._sent else self._progress
            if packet is None:
                self._closing = True
                _send(pipe, None)
                pipe.close()
                return
            self._sent.append((packet.stream == VIDEO, packet.arrived))
            _send(pipe, packet)

    def _listen(self, pipe: IO[bytes]) -> None:
        """Take in what the worker says until it ends."""
        try:
            while True:
                self._take_in(pickle.load(pipe))
        except (EOFError, pickle.UnpicklingError, OSError):
            if not self._reason and not (self._closing and self._closed):
                self._reason = "the worker process died"
        finally:
            self._ended.set()
            with self._publisher._change:  # `_feed` may wait for a packet that does not come
                self._publisher._change.notify_all()

    def _take_in(self, told: Told) -> None:
        account = self._publisher.account
        self._progress = time.monotonic()
        if told.what == "started":
            self._started = True
        elif told.what == "opened":
            self.opened = True
            self._publisher._opened(told.text)
        elif told.what == "written":
            picture, arrived = self._sent.popleft()
            self._backoff.succeeded()
            if picture:
                account.written += 1
                self._publisher._took(time.monotonic() - arrived)
        elif told.what == "closed":
            self._closed = True
        else:
            self._reason, self._permanent = told.text, told.permanent

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a worker that makes no progress although something is to be done."""
        publisher = self._publisher
        while not self._ended.wait(_TICK):
            if publisher._ending and not self.opened and not publisher._stores:
                self._reason = "it did not open before the end"  # and there is nothing to finish
                process.kill()
                return
            idle = self.opened and not self._sent and not self._closing
            limit = self._timeout if self._started else max(STARTING, self._timeout)
            if not idle and time.monotonic() - self._progress > limit:
                self._reason = f"no progress for {self._timeout:g} s: the server is frozen or unreachable"
                process.kill()
                return


def _send(pipe: IO[bytes], message: object) -> None:
    pickle.dump(message, pipe)
    pipe.flush()
