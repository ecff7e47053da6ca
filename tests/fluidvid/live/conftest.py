"""Real servers and cameras on loopback for the live tests, and runs that can be watched from outside."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from fluidvid import config
from fluidvid.assembly import frame_stages
from fluidvid.live.addresses import sink_address, source_address
from fluidvid.live.session import LiveSession
from tests.fluidvid.live.camera import write_code
from tests.fluidvid.live.seeing import filmed

SHORT = 45
HERE = Path(__file__).parent
SYSTEM_PYTHON = Path("/usr/bin/python3")
RTMP_MODULE = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")
PACKAGES = "gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-{base,good,bad,ugly}"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def short(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first `SHORT` pictures of the clip, for runs that last until their file ends."""
    path = tmp_path_factory.mktemp("short") / "short.mp4"
    with av.open(str(clip)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", 25, options={"preset": "ultrafast", "g": "12"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 176, 144, "yuv420p"
        for index, frame in zip(range(SHORT), source.decode(video=0), strict=False):
            frame.pts, frame.time_base, frame.pict_type = index, Fraction(1, 25), av.video.frame.PictureType.NONE
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@dataclass
class Server:
    """The RTSP server process; `relays` are its paths."""

    relays: Sequence[str]
    login: tuple[str, str] | None = None
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[str] | None = None

    def url(self, path: str, login: str = "") -> str:
        return f"rtsp://{login + '@' if login else ''}127.0.0.1:{self.port}/{path}"

    def start(self) -> Server:
        arguments = [str(SYSTEM_PYTHON), str(HERE / "rtsp_server.py"), "--port", str(self.port)]
        for relay in self.relays:
            arguments += ["--sound" if relay.startswith("sound") else "--silent", relay]
        if self.login:
            arguments += ["--user", self.login[0], "--password", self.login[1]]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        return self

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


class Sender(threading.Thread):
    """Serves chunks of bytes to one TCP client after another; with `stall` the last one then hears nothing more."""

    def __init__(self, *services: bytes, rate: int, stall: bool = False) -> None:
        super().__init__(daemon=True)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._services, self._rate = services, rate
        self._stalled = threading.Event()
        if not stall:
            self._stalled.set()
        self.start()

    def close(self) -> None:
        """Let a client go that was kept waiting."""
        self._stalled.set()
        self.join()

    def run(self) -> None:
        for service in self._services:
            client, _ = self._socket.accept()
            with client:
                try:
                    for begin in range(0, len(service), 1316):
                        client.sendall(service[begin : begin + 1316])
                        time.sleep(1316 / self._rate)
                    if service is self._services[-1]:
                        self._stalled.wait()
                except OSError:
                    continue
        self._socket.close()


def transport_stream(clip: Path, path: Path, size: tuple[int, int], *, count: int = 60) -> bytes:
    """The first pictures of the clip as MPEG-TS, numbered like a camera's pictures."""
    with av.open(str(path), "w", format="mpegts") as out:
        stream = out.add_stream(
            "libx264", 25, options={"preset": "ultrafast", "tune": "zerolatency", "g": "10", "threads": "1"}
        )
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number, image in enumerate(filmed(clip, *size)[:count]):
            coded = image.copy()
            write_code(coded, number)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(coded, format="rgb24")))
        out.mux(stream.encode(None))
    return path.read_bytes()


class FrozenServer(threading.Thread):
    """Takes an RTSP publisher's requests, then reads nothing any more, with hardly any room in its socket."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()
        self.port = int(self._socket.getsockname()[1])
        self.clients: list[socket.socket] = []
        self.start()

    def run(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self.clients.append(client)
            reading = client.makefile("rb")
            recording = False
            while not recording:
                method, fields = reading.readline().split()[0], {}
                while line := reading.readline().decode().strip():
                    name, _, value = line.partition(":")
                    fields[name] = value.strip()
                reading.read(int(fields.get("Content-Length", 0)))
                answer = ["RTSP/1.0 200 OK", f"CSeq: {fields['CSeq']}", "Session: 1"]
                answer += [f"Transport: {fields['Transport']}"] if "Transport" in fields else []
                client.sendall("".join(f"{line}\r\n" for line in [*answer, ""]).encode())
                recording = method == b"RECORD"

    def close(self) -> None:
        self._socket.close()
        for client in self.clients:
            client.close()


@dataclass
class Run:
    """A live run in a thread of this process."""

    session: LiveSession
    lines: list[str]
    error: BaseException | None = None
    thread: threading.Thread | None = None

    def start(self) -> Run:
        def work() -> None:
            try:
                self.session.run()
            except BaseException as error:
                self.error = error

        self.thread = threading.Thread(target=work)
        self.thread.start()
        return self

    @property
    def published(self) -> int:
        return self.session.report().pictures_out

    def said(self, words: str) -> bool:
        return any(words in line for line in list(self.lines))

    def finish(self) -> None:
        """Stop and wait."""
        self.session.stop("the test")
        self.wait()

    def wait(self, seconds: float = 20.0) -> None:
        assert self.thread is not None
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "the run does not end"


def children(parent: int) -> list[int]:
    """Process ids of a process's children."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def workers() -> list[int]:
    """Process ids of muxing workers that are children of this process."""
    found = []
    for pid in children(os.getpid()):
        with suppress(FileNotFoundError, ProcessLookupError):
            if "fluidvid.live.muxing" in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(pid)
    return found


def threads() -> list[str]:
    """Names of the threads that live runs of this process have started."""
    ours = ("read input", "read ahead", "publish ", "directions", "metrics", "status")
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(ours)]


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Makes servers; skips where GStreamer's is not installed."""
    probe = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if not SYSTEM_PYTHON.exists() or subprocess.run([SYSTEM_PYTHON, "-c", probe], capture_output=True).returncode:
        pytest.skip(f"NOT TESTED: no RTSP server: apt-get install -y {PACKAGES}")
    servers: list[Server] = []

    def make(*relays: str, login: tuple[str, str] | None = None) -> Server:
        servers.append(Server(relays, login))
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


@pytest.fixture
def rtmp(tmp_path: Path) -> Iterator[str]:
    """A relay for RTMP: what is published below this address can be read there."""
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if nginx is None or not RTMP_MODULE.exists():
        pytest.skip("NOT TESTED: no RTMP server: apt-get install -y nginx-core libnginx-mod-rtmp")
    port = free_port()
    settings = tmp_path / "nginx.conf"
    settings.write_text(
        f"load_module {RTMP_MODULE}; daemon off; pid {tmp_path}/pid; error_log {tmp_path}/nginx.log; "
        "events {worker_connections 64;} "
        f"rtmp {{server {{listen 127.0.0.1:{port}; application live {{live on;}}}}}}\n"
    )
    server = subprocess.Popen([nginx, "-c", str(settings), "-p", str(tmp_path)], stderr=subprocess.DEVNULL)

    def listens() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    until(listens)
    yield f"rtmp://127.0.0.1:{port}/live"
    server.terminate()
    server.wait()


@pytest.fixture
def film(clip: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts cameras that publish the clip."""
    cameras: list[subprocess.Popen[bytes]] = []

    def start(url: str, *options: str) -> subprocess.Popen[bytes]:
        arguments = [sys.executable, str(HERE / "camera.py"), str(clip), url, "--code", *options]
        cameras.append(subprocess.Popen(arguments, stderr=subprocess.DEVNULL))
        return cameras[-1]

    yield start
    for camera in cameras:
        camera.kill()
        camera.wait()


@pytest.fixture
def live() -> Iterator[Callable[..., Run]]:
    """Starts live runs in mode pixelate; afterwards none may have left a process or a thread behind."""
    runs: list[Run] = []

    def start(source: str, *targets: str, alter: Callable[[LiveSession], None] | None = None, **options: Any) -> Run:
        changes = {
            "mode": "pixelate",
            "live.timeout": 1.5,
            "live.latency": 20.0,
            "live.status": 0,
            "detect.second": None,
        }
        changes |= {key.replace("__", "."): value for key, value in options.items()}
        chosen = config.load("live").updated(changes)
        lines: list[str] = []
        session = LiveSession(
            source_address(source),
            [sink_address(target, overwrite=False) for target in targets],
            chosen,
            frame_stages(chosen, workers=1),
            say=lines.append,
        )
        if alter is not None:
            alter(session)
        runs.append(Run(session, lines).start())
        return runs[-1]

    yield start
    for run in runs:
        run.finish()
    assert workers() == [], "a muxing worker was left behind"
    until(lambda: threads() == [], 5)
