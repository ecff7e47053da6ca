"""A real RTSP server for the tests: GStreamer's, run by the system's python3, which has its bindings.

What is published (RECORD) at /NAME/publish is played to readers of /NAME: nothing is decoded or kept. With `--user` and
`--password` readers and publishers of every path must log in. Prints `ready` when it listens; it never ends by itself.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

H264 = "video/x-h264,stream-format=byte-stream,alignment=au"
SOUND = "audio/x-alaw,rate=8000,channels=1"


class Relay:
    """One path: a publisher's buffers are pushed to whoever reads."""

    def __init__(self, server: Any, name: str, sound: bool) -> None:
        self.sources: dict[int, Any] = {}
        self.caps: dict[int, Any] = {}
        taps = f"( rtph264depay name=depay0 ! h264parse config-interval=-1 ! {H264} ! appsink name=tap0 sync=false "
        plays = (
            f"( appsrc name=source0 is-live=true format=time do-timestamp=true caps={H264} ! "
            "h264parse config-interval=-1 ! rtph264pay name=pay0 pt=96 config-interval=-1 "
        )
        if sound:
            taps += f"rtppcmadepay name=depay1 ! {SOUND} ! appsink name=tap1 sync=false "
            plays += (
                f"appsrc name=source1 is-live=true format=time do-timestamp=true caps={SOUND} ! "
                "rtppcmapay name=pay1 pt=8 "
            )
        record = GstRtspServer.RTSPMediaFactory()
        record.set_launch(taps + ")")
        record.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
        record.set_latency(0)
        record.connect("media-configure", self._recorded)
        play = GstRtspServer.RTSPMediaFactory()
        play.set_launch(plays + ")")
        play.set_shared(True)
        play.set_latency(0)
        play.connect("media-configure", self._played)
        for path, factory in ((f"/{name}/publish", record), (f"/{name}", play)):
            allow(factory)
            server.get_mount_points().add_factory(path, factory)

    def _recorded(self, _: Any, media: Any) -> None:
        for track in (0, 1):
            tap = media.get_element().get_by_name(f"tap{track}")
            if tap is not None:
                tap.set_property("emit-signals", True)
                tap.set_property("max-buffers", 50)
                tap.set_property("drop", True)
                tap.connect("new-sample", self._sample, track)

    def _sample(self, tap: Any, track: int) -> Any:
        sample = tap.emit("pull-sample")
        source = self.sources.get(track)
        if source is not None:
            buffer = sample.get_buffer().copy()
            buffer.pts = buffer.dts = Gst.CLOCK_TIME_NONE
            source.emit("push-buffer", buffer)
        return Gst.FlowReturn.OK

    def _played(self, _: Any, media: Any) -> None:
        for track in (0, 1):
            source = media.get_element().get_by_name(f"source{track}")
            if source is not None:
                self.sources[track] = source
        media.connect("unprepared", lambda _: self.sources.clear())


def allow(factory: Any) -> None:
    """Whoever the server lets in may play and publish."""
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role("user", "media.factory.access", True)
    permissions.add_permission_for_role("user", "media.factory.construct", True)
    factory.set_permissions(permissions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", required=True)
    parser.add_argument("--silent", action="append", default=[], help="names of relays without sound")
    parser.add_argument("--sound", action="append", default=[], help="names of relays with sound")
    parser.add_argument("--user")
    parser.add_argument("--password")
    args = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(args.port)
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    if args.user:
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(args.user, args.password), token)
    else:
        auth.set_default_token(token)
    server.set_auth(auth)
    # A DESCRIBE waits for the first picture: it must not keep other connections waiting.
    server.get_thread_pool().set_max_threads(16)
    for name in args.silent:
        Relay(server, name, False)
    for name in args.sound:
        Relay(server, name, True)
    if server.attach(None) == 0:
        sys.exit(f"port {args.port} is taken")
    GLib.timeout_add_seconds(2, lambda: server.get_session_pool().cleanup() or True)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
