"""A camera, a server, fluidvid, a server, an independent reader: picture, sound, times, and no raw face."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid.errors import InputError
from tests.fluidvid.live.camera import write_code
from tests.fluidvid.live.conftest import SHORT, Run, Server, free_port, transport_stream, until
from tests.fluidvid.live.seeing import exposed, filmed, pictures
from tests.fluidvid.video.media_files import Recipe, build

SIZE = (264, 224)


@pytest.mark.parametrize("edits", [False, True])
def test_what_is_filmed_raw_counts_as_exposed(clip: Path, edits: bool) -> None:
    """The judges of all other tests can say no."""
    raw = []
    for number, image in enumerate(filmed(clip, *SIZE)[:20]):
        coded = image.copy()
        coded[:, :, 1] = np.clip(
            coded[:, :, 1].astype(int) + np.where(np.indices(SIZE[::-1]).sum(0) % 2, 2, -2), 0, 255
        )
        write_code(coded, number)
        raw.append(coded)
    seen, faces = exposed(clip, raw, size=SIZE, edits=edits)
    assert seen >= faces >= len(raw) == 20


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_camera_to_reader(
    serve: Callable[..., Server],
    film: Callable[..., object],
    live: Callable[..., Run],
    clip: Path,
    tmp_path: Path,
    transport: str,
) -> None:
    server = serve("sound_in", "sound_out").start()
    film(server.url("sound_in/publish"), "--sound")
    port = free_port()
    run = live(
        server.url("sound_in"),
        server.url("sound_out/publish"),
        str(tmp_path / "copy.mov"),
        live__metrics=f"127.0.0.1:{port}",
        live__status=0.5,
        live__transport=transport,
    )
    until(lambda: run.published > 10)
    sound = 0
    images, times = [], []
    with av.open(server.url("sound_out"), options={"rtsp_transport": "tcp"}, timeout=(10, 10)) as reader:
        for packet in reader.demux(reader.streams.video[0], reader.streams.audio[0]):
            sound += packet.stream.type == "audio"
            if packet.stream.type == "video":
                for frame in packet.decode():
                    assert isinstance(frame, av.VideoFrame)
                    images.append(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))
                    times += [frame.time] if frame.time is not None else []  # RTP's first packets may have none
            if len(images) >= 40:
                break
    text = urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    assert urlopen(f"http://127.0.0.1:{port}/health").status == 200
    run.finish()
    # This server stamps by arrival: pictures that come in a burst may share a tick. Ours are in the file below.
    assert sound > 10 and len(times) > 30 and all(a <= b for a, b in pairwise(times))
    seen, faces = exposed(clip, images, size=SIZE)
    assert faces >= len(images) and seen == 0
    # The roof of the car, in the upper half, is what was filmed: pictures arrive whole.
    roof = [image[:20, :60].mean((0, 1)) for image in (filmed(clip, *SIZE)[0], *images)]
    assert np.mean([np.abs(seen - roof[0]).max() < 25 for seen in roof[1:]]) > 0.9
    assert 'fluidvid_faces_total{treatment="raw"} 0.0' in text
    told = {line.split("{")[0].split()[0] for line in text.splitlines() if not line.startswith("#")}
    wanted = "fps latency_seconds tracks faces_total faces_masked_total input_reconnects_total output_reconnects_total"
    wanted += " pictures_dropped_total output_dropped_total pictures_corrupt_total ladder input_connected"
    assert {f"fluidvid_{name}" for name in wanted.split()} <= told
    line = (
        r"[\d.]+ pictures/s, latency \d+/\d+ ms \(median/95 %\), 1 tracks, faces 0 edited \d+ held \d+ masked 0 raw, "
    )
    line += "full, 2/2 outputs, 0 reconnects, 0 dropped"
    assert any(re.fullmatch(line, said) for said in run.lines), run.lines
    # The copy in a file: every published picture, all with faces treated, sound beside it, its name only at the end.
    copied, copied_times = pictures(str(tmp_path / "copy.mov"))
    report = run.session.report()
    assert report.pictures_out == len(copied) and all(a < b for a, b in pairwise(copied_times))
    assert report.raw == report.edited == 0
    seen, faces = exposed(clip, copied, size=SIZE)
    assert report.faces >= faces >= len(copied) and seen == 0
    with av.open(str(tmp_path / "copy.mov")) as copy:
        assert copy.streams.audio[0].codec_context.name == "pcm_alaw"
        assert sum(packet.size for packet in copy.demux(copy.streams.audio[0])) > 8000
    assert any("voices" in warning for warning in report.warnings)
    assert report.latency_median is not None  # how large it is, benchmarks/live.py measures


@pytest.mark.parametrize("target", ["part-%03d.mp4", "hls/", "whole.ts"])
def test_a_file_becomes_files(live: Callable[..., Run], short: Path, tmp_path: Path, target: str) -> None:
    """A file at real-time pace: it ends by itself, after as long as it lasts."""
    run = live(
        str(short),
        str(tmp_path / target) + ("/" if target.endswith("/") else ""),
        live__segment=1.0,
        live__key_interval=0.5,
    )
    run.wait()
    assert run.error is None
    report = run.session.report()
    assert report.stopped == "the input ended" and report.pictures_out == SHORT
    assert report.seconds > (SHORT - 1) / 25, "at its own pace"
    names = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert not any(name.endswith(".part") for name in names)
    if target == "whole.ts":
        assert len(pictures(str(tmp_path / "whole.ts"))[0]) == SHORT
    elif target == "hls/":
        assert "index.m3u8" in names and sum(name.endswith(".ts") for name in names) >= 2
        assert len(pictures(str(tmp_path / "hls" / "index.m3u8"))[0]) == SHORT
    else:
        assert len(names) >= 2 and names[0] == "part-000.mp4"
        assert sum(len(pictures(str(tmp_path / name))[0]) for name in names) == SHORT


def test_mpegts_over_tcp_and_udp(live: Callable[..., Run], short: Path) -> None:
    """An independent receiver listens; the same run sends to both."""
    tcp, udp = free_port(), free_port()
    got: dict[str, int] = {}

    def receive(name: str, url: str) -> None:
        with av.open(url, format="mpegts", timeout=(15, 10)) as reader:
            for _ in reader.decode(video=0):
                got[name] = got.get(name, 0) + 1
                if got[name] >= 20:
                    return

    threads = [
        threading.Thread(target=receive, args=("tcp", f"tcp://127.0.0.1:{tcp}?listen=1")),
        threading.Thread(target=receive, args=("udp", f"udp://127.0.0.1:{udp}")),
    ]
    for thread in threads:
        thread.start()
    run = live(str(short), f"tcp://127.0.0.1:{tcp}", f"udp://127.0.0.1:{udp}?pkt_size=1316", live__key_interval=0.5)
    for thread in threads:
        thread.join(20)
    run.finish()
    assert got == {"tcp": 20, "udp": 20}


def test_mpegts_over_udp_as_input(live: Callable[..., Run], clip: Path, tmp_path: Path) -> None:
    """It falls silent for longer than the timeout, which ends nothing: a sender of datagrams may come back."""
    data, port = transport_stream(clip, tmp_path / "in.ts", SIZE), free_port()
    run = live(f"udp://127.0.0.1:{port}", str(tmp_path / "out.mkv"))

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for begin in range(0, len(data), 1316):
                sender.sendto(data[begin : begin + 1316], ("127.0.0.1", port))
                time.sleep(1316 * 2.4 / len(data))

    time.sleep(1)
    send()
    until(lambda: run.said("no picture for 1.5 s; trying again"))
    before, end = run.published, time.monotonic() + 30
    while run.published <= before + 20 and time.monotonic() < end:  # what comes between two attempts is lost
        send()
    run.finish()
    images, times = pictures(str(tmp_path / "out.mkv"))
    assert run.error is None and len(images) > before + 20 and all(a < b for a, b in pairwise(times))
    seen, faces = exposed(clip, images, size=SIZE)
    assert before > 20 and seen == 0 and faces >= len(images)


def test_preview(live: Callable[..., Run], clip: Path, tmp_path: Path) -> None:
    """A browser's view of it: what was published, and nothing else, on this machine only; who is slow harms nobody."""
    transport_stream(clip, tmp_path / "in.ts", SIZE, count=120)
    port = free_port()
    run = live(str(tmp_path / "in.ts"), f"preview:{port}", str(tmp_path / "out.mkv"))
    until(lambda: run.said(f"preview:{port}: publishing (open http://127.0.0.1:{port}/ in a browser; without sound)"))
    base = f"http://127.0.0.1:{port}"
    assert b"<img src='/pictures'" in urlopen(f"{base}/").read()
    for request, code in ((Request(f"{base}/", headers={"Host": "evil.example"}), 403), (Request(f"{base}/a"), 404)):
        with pytest.raises(HTTPError) as caught:
            urlopen(request)
        assert caught.value.code == code
    with socket.create_connection(("127.0.0.1", port)) as slow, urlopen(f"{base}/pictures") as page:
        slow.sendall(f"GET /pictures HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        images: list[NDArray[np.uint8]] = []
        while len(images) < 30:
            assert page.readline() == b"--picture\r\n" and page.readline() == b"Content-Type: image/jpeg\r\n"
            length = int(page.readline().split()[1])
            page.readline()
            coded = np.frombuffer(page.read(length), np.uint8)
            images.append(np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR_RGB), np.uint8))
            page.readline()
        assert not [line for line in Path("/proc/net/tcp").read_text().splitlines() if f"00000000:{port:04X}" in line]
    seen, faces = exposed(clip, images, size=SIZE)
    assert seen == 0 and faces >= len(images)
    run.wait()
    assert run.error is None and run.session.report().outputs[0]["reconnects"] == 0
    assert run.session.report().outputs[1]["dropped"] == 0


def test_pictures_over_http(live: Callable[..., Run], clip: Path, tmp_path: Path) -> None:
    """JPEGs that carry no times, as many cameras send them: they are published when they came, not 25 a second."""
    coded = []
    for number, image in enumerate(filmed(clip, *SIZE)[:40]):
        image = image.copy()
        write_code(image, number)
        coded.append(cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())

    class Camera(Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=b")
            self.end_headers()
            for jpeg in coded:
                head = f"--b\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n")
                time.sleep(0.1)

    web = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    run = live(f"http://127.0.0.1:{web.server_port}/camera", str(tmp_path / "out.mkv"))
    until(lambda: run.said("trying again"))  # it hangs up
    run.finish()
    web.shutdown()
    web.server_close()
    images, times = pictures(str(tmp_path / "out.mkv"))
    apart = np.diff(times[:35])
    assert len(images) >= 39 and apart.min() > 0 and np.median(apart) == pytest.approx(0.1, abs=0.03)
    seen, faces = exposed(clip, images, size=SIZE)
    assert seen == 0 and faces >= len(images)


def test_hls_folder_to_http_to_rtmp(live: Callable[..., Run], short: Path, tmp_path: Path) -> None:
    """One run writes an HLS folder, a web server shows it, another run reads it there and publishes to RTMP."""
    slow = tmp_path / "slow.mp4"  # an output takes a second or more to open, and begins with the present
    with av.open(str(short)) as source, av.open(str(slow), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size and packet.pts is not None and packet.dts is not None:
                packet.pts, packet.dts, packet.stream = 4 * packet.pts, 4 * packet.dts, stream
                out.mux(packet)
    written = live(str(slow), f"{tmp_path}/hls/", live__segment=1.0, live__key_interval=0.5)
    written.wait()
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "hls")))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    port = free_port()
    got: list[tuple[int, int]] = []

    def receive() -> None:
        url = f"rtmp://127.0.0.1:{port}/live/streamkey"
        # RTMP ends without a word: an error tells that it did.
        with suppress(av.FFmpegError), av.open(url, options={"listen": "1"}, timeout=(15, 10)) as reader:
            for frame in reader.decode(video=0):
                got.append((frame.width, frame.height))

    receiver = threading.Thread(target=receive)
    receiver.start()
    run = live(
        f"http://127.0.0.1:{web.server_port}/index.m3u8?token=s3cret",
        f"rtmp://127.0.0.1:{port}/live/streamkey",
        live__key_interval=0.2,
        live__retries=1,
    )
    run.wait(30)
    receiver.join(20)
    web.shutdown()
    web.server_close()
    assert len(got) > 20 and set(got) == {(176, 144)}
    assert not run.said("streamkey") and not run.said("s3cret") and run.said("/live/***: publishing")


def test_a_recording_over_http_is_published_once(live: Callable[..., Run], short: Path, tmp_path: Path) -> None:
    """It began anew at its end, for ever: a playlist with its end, and a file."""
    live(str(short), f"{tmp_path}/hls/", live__segment=1.0, live__key_interval=0.5).wait()
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    for number, name in enumerate(("hls/index.m3u8", "hls/index0.ts")):
        run = live(f"http://127.0.0.1:{web.server_port}/{name}", f"{tmp_path}/out{number}.mkv")
        run.wait(20)
        report = run.session.report()
        assert run.error is None and report.stopped == "the input ended" and report.reconnects == 0
        assert report.pictures_in == (SHORT if number == 0 else len(pictures(f"{tmp_path}/hls/index0.ts")[0]))
    web.shutdown()
    web.server_close()


def test_a_recording_over_http_without_a_picture_is_no_success(
    live: Callable[..., Run], clip: Path, tmp_path: Path
) -> None:
    """As of a file: nothing was published, and the exit code was 0."""
    build(tmp_path / "in.h264", clip, Recipe(pts=range(0, 8008, 1001)))
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    run = live(f"http://127.0.0.1:{web.server_port}/in.h264", f"{tmp_path}/out.mkv")
    run.wait(20)
    web.shutdown()
    web.server_close()
    assert isinstance(run.error, InputError) and "have no times: convert it first" in str(run.error)
    assert str(run.error).endswith("OUT.mp4`: given up"), "one remedy"


def test_a_broadcast_that_ended_is_waited_for_and_not_repeated(
    live: Callable[..., Run], clip: Path, short: Path, tmp_path: Path
) -> None:
    """An encoder that restarts writes an end under its playlist first: what stands there was published already."""
    live(str(short), f"{tmp_path}/hls/", live__segment=1.0, live__key_interval=0.5).wait()
    playlist = tmp_path / "hls" / "index.m3u8"
    ended = playlist.read_text()
    assert ended.endswith("#EXT-X-ENDLIST\n")
    going_on = ended.replace("#EXT-X-ENDLIST\n", "")
    playlist.write_text(going_on)
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "hls")))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    # While nothing is added to the playlist, FFmpeg asks for it again and again.
    run = live(f"http://127.0.0.1:{web.server_port}/index.m3u8", f"{tmp_path}/out.mkv", live__timeout=4.0)
    until(lambda: run.published >= 10)
    playlist.write_text(ended)
    until(lambda: run.said("the broadcast has ended, only a recording of it is there; trying again in 2 s"))
    assert run.session.report().pictures_in == SHORT
    playlist.write_text(going_on)  # here it goes on
    until(lambda: run.session.report().pictures_in > SHORT + 10)
    run.finish()
    web.shutdown()
    web.server_close()
    report = run.session.report()
    assert run.error is None and report.pictures_in == report.pictures_out + report.dropped
    assert "recording" not in report.stopped


def test_rtmp_in_and_out(rtmp: str, film: Callable[..., object], live: Callable[..., Run], clip: Path) -> None:
    """A camera publishes to an RTMP server; fluidvid reads it there and publishes to the same server."""
    film(f"{rtmp}/camera", "--format", "flv", "--size", f"{SIZE[0]}x{SIZE[1]}")
    run = live(f"{rtmp}/camera", f"{rtmp}/s3cret", live__key_interval=0.5, live__retries=20)
    until(lambda: run.published > 10)
    images, times = pictures(f"{rtmp}/s3cret", limit=30)
    run.finish()
    assert len(images) == 30 and all(a < b for a, b in pairwise(times))
    seen, faces = exposed(clip, images, size=SIZE)
    assert seen == 0 and faces >= len(images)
    assert not run.said("s3cret") and run.said("receiving 264x224")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        pass
