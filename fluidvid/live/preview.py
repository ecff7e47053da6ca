"""A local preview: the published pictures as a page of this machine, for any browser; FFmpeg's wheel opens no window.

It shows what leaves and nothing else: it decodes the very packets that the other outputs get.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence

import av
import cv2
import numpy as np

from fluidvid.live.encoding import VIDEO, Coded
from fluidvid.live.pages import LOOPBACK, PATIENCE, PageHandler, PageServer

_QUALITY = 85
_BOUNDARY = "picture"
_PAGE = (
    b"<!doctype html><title>fluidvid</title><body style='margin:0;background:#222'>"
    b"<img src='/pictures' style='width:100vw;height:100vh;object-fit:contain'>"
)
WATCHERS = 8
"""Pages at once."""


class PreviewSink:
    """Serves `/`, a page, and `/pictures`, JPEG after JPEG, on the loopback address only.

    Whoever watches slowly misses pictures and holds up nobody; while nobody watches, none are coded.

    Args:
        port: to listen on; 0: any free one, which is told in `notes`.
        description: `LiveEncoder.description`.
    """

    def __init__(self, port: int, description: bytes) -> None:
        with av.open(
            io.BytesIO(description), format="nut", options={"analyzeduration": "0", "probesize": "32"}
        ) as told:
            decoder = av.CodecContext.create(told.streams[VIDEO].codec_context.name, "r")
        assert isinstance(decoder, av.VideoCodecContext)
        self._decoder = decoder
        self._decoder.thread_type = "SLICE"  # frame threads would add a picture of delay each
        self._change = threading.Condition()
        self._picture, self._number, self._watching, self._closed = b"", 0, 0, False
        self._server = PageServer(LOOPBACK, port, self._handler(), name="preview")

    @property
    def notes(self) -> Sequence[str]:
        return [f"open http://{LOOPBACK}:{self._server.server_port}/ in a browser; without sound"]

    def write(self, packet: Coded) -> None:
        if packet.stream != VIDEO:
            return
        for picture in self._decoder.decode(av.Packet(packet.data)):
            if not self._watching:
                continue
            image = np.asarray(picture.to_ndarray(format="bgr24"), np.uint8)
            coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
            with self._change:
                self._picture, self._number = coded, self._number + 1
                self._change.notify_all()

    def close(self) -> None:
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._server.close()

    def _next(self, before: int) -> tuple[bytes | None, int]:
        """The newest picture once there is one after number `before`; None at the end.

        After some time without one the last comes again, so that a page which was closed is noticed.
        """
        with self._change:
            self._change.wait_for(lambda: self._number > before or self._closed, timeout=PATIENCE)
            return (None if self._closed else self._picture), self._number

    def _handler(self) -> type[PageHandler]:
        sink = self

        class Handler(PageHandler):
            def do_GET(self) -> None:  # noqa: N802 - the base class calls it so
                port = sink._server.server_port
                if self.headers.get("Host") not in (f"{LOOPBACK}:{port}", f"localhost:{port}"):
                    self.send_error(403)  # another site's page, by a name of its own for this address
                elif self.path == "/":
                    self._answer("text/html")
                    self.wfile.write(_PAGE)
                elif self.path == "/pictures" and sink._watching >= WATCHERS:
                    self.send_error(503, "too many pages")
                elif self.path == "/pictures":
                    self._answer(f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
                    self._show()
                else:
                    self.send_error(404)

            def _answer(self, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Cache-Control", "no-store")
                self.send_header("Cross-Origin-Resource-Policy", "same-origin")
                self.end_headers()

            def _show(self) -> None:
                with sink._change:
                    sink._watching += 1
                    number = sink._number
                try:
                    while True:
                        picture, number = sink._next(number)
                        if picture is None:
                            return
                        if not picture:
                            continue
                        head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                        self.wfile.write(head.encode() + picture + b"\r\n")
                except OSError:
                    return  # the page was closed
                finally:
                    with sink._change:
                        sink._watching -= 1

        return Handler
