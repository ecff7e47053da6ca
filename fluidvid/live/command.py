"""`fluidvid stream`: sets a live run up, prints what happens, stops it on a signal, and sums it up."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from types import FrameType

import av

from fluidvid.api import check_cache_apart
from fluidvid.assembly import frame_stages
from fluidvid.config import CacheConfig, Config, LiveConfig, as_config
from fluidvid.errors import ConfigError, InterruptedStreamError
from fluidvid.heap import share
from fluidvid.live.addresses import Address, sink_address, source_address
from fluidvid.live.metrics import host_and_port
from fluidvid.live.pages import LOOPBACK, check_free
from fluidvid.live.report import LiveReport
from fluidvid.live.session import LiveSession, check_config
from fluidvid.stdout import for_people


def stream(
    source: str,
    targets: Sequence[str],
    *,
    config: Config | str | Path,
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
    done: Callable[[LiveReport], None] | None = None,
) -> LiveReport:
    """Pseudonymise a live stream until it is stopped by SIGINT, SIGTERM or SIGHUP, or a file has ended.

    Args:
        source: a URL (rtsp, rtmp, http, udp, tcp), a video device, or a file, which is read at real-time pace;
            `@FILE` takes the address from the first line of a file.
        targets: URLs (rtsp, rtmp, udp, tcp), HLS folders or playlists, files, or `preview[:PORT]`.
        config: a configuration, or a preset's name or TOML file, for instance "live".
        overwrite: replace existing files; older parts under the name of a file in parts are moved aside.
        say: takes one line at a time for the user; default: stderr. Called from any thread.
        done: takes the report before any error is raised, too.

    Returns:
        The account. `edited + held + masked == faces`, `raw == 0`.

    Raises:
        ConfigError: an option or address that a live stream cannot have.
        InputError: the input was given up.
        OutputError: all outputs were given up, none is complete, or a file exists.
        ModelError: a model is missing or altered.
        DetectionError: faces could not be looked for; the run stops, nothing of that picture is published.
        InterruptedStreamError: a second signal came before the outputs were finished.
    """
    share()
    # FFmpeg's lines name URLs. Not set_level: that installs PyAV's log callback, which can deadlock threads.
    av.logging.set_libav_level(av.logging.PANIC)
    config = as_config(config)
    check_config(config)
    if isinstance(targets, str):
        raise ConfigError("targets is one text: give a list of OUTs, if only of one")
    read = source_address(from_file(source))
    written = [sink_address(from_file(target), overwrite=overwrite) for target in targets]
    _check_apart(read, written, config.cache)
    _check_pages(written, config.live)
    tell = say or _to_stderr
    stages = frame_stages(config, workers=1)
    with closing(stages.memory) if stages.memory is not None else nullcontext():
        session = LiveSession(read, written, config, stages, say=tell)
        try:
            with _stopped_by_signals(session, tell):
                session.run()
        except KeyboardInterrupt:
            raise InterruptedStreamError(
                "interrupted by a second signal: outputs may lack their end; one signal and some seconds suffice"
            ) from None
        finally:
            report = session.report()
            if done is not None:
                done(report)
    return report


def _check_apart(source: Address, targets: Sequence[Address], cache: CacheConfig) -> None:
    """Raise ConfigError without a target, if one is the source itself or named twice, or if a video is the cache."""
    if not targets:
        raise ConfigError("a stream needs at least one OUT")
    for number, address in enumerate(targets):
        if address.url == source.url or address.covers(Path(source.url)):
            raise ConfigError(f"{address.shown} is the source itself: choose another OUT")
        if any(address.meets(other) for other in targets[:number]):
            raise ConfigError(f"{address.shown} is named twice: choose another OUT")
    check_cache_apart(cache, lambda path: any(address.covers(path) for address in (source, *targets)))


def _check_pages(targets: Sequence[Address], live: LiveConfig) -> None:
    """Raise ConfigError if metrics or a preview cannot be served where they were asked for.

    A preview would be tried again and again, since it begins with the first picture only.
    """
    metrics = [] if live.metrics is None else [(f"--metrics {live.metrics}", *host_and_port(live.metrics))]
    ports = [(address.shown, address.port) for address in targets if address.kind == "preview"]
    check_free([*metrics, *((shown, LOOPBACK, port) for shown, port in ports if port)])


def from_file(address: str) -> str:
    """The address itself, or the first line of FILE for `@FILE`: what is typed, others see in the list of processes.

    Raises:
        ConfigError: the file cannot be read or is empty.
    """
    if not address.startswith("@"):
        return address
    try:
        lines = Path(address[1:]).read_text(encoding="utf-8-sig").split()  # Windows' editors put a mark in front
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the address in {address[1:]}: {error}") from None
    if not lines:
        raise ConfigError(f"{address[1:]} is empty: write an address into it")
    return lines[0]


def _to_stderr(line: str) -> None:
    for_people(lambda: sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n"))
    for_people(lambda: sys.stderr.flush())


@contextmanager
def _stopped_by_signals(session: LiveSession, say: Callable[[str], None]) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP ends the run in an orderly way, the second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to whoever runs the main thread
        return
    seen: list[int] = []
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none

    def handle(number: int, _: FrameType | None) -> None:
        seen.append(number)
        if len(seen) > 1 and number == hangup:
            return  # a closed terminal hangs up twice, from the shell and from the kernel
        if len(seen) > 1:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        say(f"{name}: finishing")
        session.stop(name)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:  # as under nohup, on purpose
        numbers.append(hangup)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            # The second hangup of a closed terminal may come when the run has ended, and the report is being written.
            signal.signal(number, signal.SIG_IGN if number in seen and number == hangup else handler)
