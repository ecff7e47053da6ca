"""What an address is, and that nothing secret of it is ever shown."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import av
import pytest

from fluidvid.errors import ConfigError, InputError, OutputError
from fluidvid.live.addresses import is_live, part_name, redacted, sink_address, source_address
from fluidvid.live.connection import Connection, Lost
from fluidvid.live.muxing import failure


@pytest.mark.parametrize(
    ("url", "kind", "shown"),
    [
        ("rtsp://host:554/a/b", "rtsp", "rtsp://host:554/a/b"),
        ("rtsp://user:pa55word@host/a", "rtsp", "rtsp://***@host/a"),
        ("rtsp://user:p@ss/w0rd@host/a", "rtsp", "rtsp://***@host/a"),
        ("rtsp://user:pa55word/x@host/a", "rtsp", "rtsp://***@host/a"),
        ("rtsp://user:pa55word#x@host/a", "rtsp", "rtsp://***@host/a"),
        ("rtsp://user:pa55word?x@host:554/a", "rtsp", "rtsp://***@host:554/a"),
        ("rtsp://user:pa[55word@host/a", "rtsp", "rtsp://***@host/a"),
        ("rtsp://user@[fe80::1]:554/a", "rtsp", "rtsp://***@[fe80::1]:554/a"),
        ("http://host:8080/a@b?x=c@d", "http", "http://***@b?***"),
        ("http://host:8080/a?x=c@d", "http", "http://host:8080/a?***"),
        ("rtsps://u%40x:p%2Fq@host/a?token=abc123&x=1", "rtsp", "rtsps://***@host/a?***"),
        ("rtmp://host/live/streamkey", "rtmp", "rtmp://host/live/***"),
        ("https://host/live.m3u8?sig=s3cret", "http", "https://host/live.m3u8?***"),
        (
            "rtsp://10.0.0.5:554/user=admin&password=s3cret&channel=1&stream=0.sdp",
            "rtsp",
            "rtsp://10.0.0.5:554/user=***&password=***&channel=1&stream=0.sdp",
        ),
        (
            "rtsp://10.0.0.5/user=admin_password=s3_cr&et_channel=1_stream=0.sdp?real_stream",
            "rtsp",
            "rtsp://10.0.0.5/user=***_password=***_channel=1_stream=0.sdp?***",
        ),
        ("http://h/usr=root/Pwd=s3cret/video.mjpg", "http", "http://h/usr=***/Pwd=***"),
        ("rtmp://h/live/user=admin/token=s3cret", "rtmp", "rtmp://h/live/user=***"),
    ],
)
def test_sources_are_shown_without_secrets(url: str, kind: str, shown: str) -> None:
    address = source_address(url)
    assert (address.kind, address.shown) == (kind, shown)
    leaks = "pa55word p@ss/w0rd p/q p%2Fq abc123 streamkey s3cret s3_cr&et"
    told = repr(address) + address.clean(f"failed: {url} (401) {leaks}")
    for secret in address.secrets:
        assert secret not in told
    assert address.url == url


def test_free_text_is_redacted() -> None:
    assert redacted("open rtsp://a:b@c/d?k=v failed") == "open rtsp://***@c/d?k=*** failed"
    assert redacted("'rtsp://c/user=a_pwd=b_channel=1' failed") == "'rtsp://c/user=***_pwd=***_channel=1' failed"
    assert (
        redacted("ftp://a:b/c?d=e@h/f and rtmp://h/live/s3cret: refused")
        == "ftp://***@h/f and rtmp://h/live/***: refused"
    )
    assert redacted("no letter.txt, 12:30.mp4 or a@b.mp4") == "no letter.txt, 12:30.mp4 or a@b.mp4"


@pytest.mark.parametrize(
    "text",
    ["rtsp:/admin:s3cret@cam/1", "\ufeffrtsp://admin:s3cret@cam/1", "admin:s3cret@cam/1", "rtmp:/cam/live/s3cret"],
)
def test_what_was_mistyped_is_shown_without_secrets(text: str) -> None:
    with pytest.raises(InputError, match="cam") as read:
        source_address(text)
    with pytest.raises(OutputError, match="cam") as written:
        sink_address(text, overwrite=False)
    assert "s3cret" not in f"{read.value} {written.value}"


@pytest.mark.parametrize("url", ["ftp://host/a", "srt://host:1"])
def test_unknown_schemes(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        source_address(url)
    with pytest.raises(ConfigError, match="cannot publish"):
        sink_address(url, overwrite=False)


def test_targets(tmp_path: Path) -> None:
    kinds = {
        "rtsp://h/a": "rtsp",
        "rtmp://h/a/k": "rtmp",
        "udp://1.2.3.4:5": "mpegts",
        "tcp://1.2.3.4:5": "mpegts",
        f"{tmp_path}/hls/": "hls",
        f"{tmp_path}/list.m3u8": "hls",
        f"{tmp_path}/a.mp4": "file",
        f"{tmp_path}/a-%04d.ts": "segments",
        "preview": "preview",
        "preview:8080": "preview",
    }
    assert {text: sink_address(text, overwrite=False).kind for text in kinds} == kinds


def test_existing_files_are_kept(tmp_path: Path) -> None:
    there = {"a.mp4": "a.mp4", "b-0007.ts": "b-%04d.ts", "index57.ts": "", "index.m3u8": "", "list0.ts": "list.m3u8"}
    for name, target in there.items():
        (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(OutputError, match="--overwrite"):
            sink_address(f"{tmp_path}/{target}", overwrite=False)
        sink_address(f"{tmp_path}/{target}", overwrite=True)
    (tmp_path / "c-x.ts").write_bytes(b"no part")
    assert sink_address(f"{tmp_path}/c-%d.ts", overwrite=False).kind == "segments"
    assert part_name("b-%04d.ts", 12) == "b-0012.ts"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("p-%d.mp4", "p-%05d.mp4", True),
        ("p-%d.mp4", "p-07.mp4", True),
        ("p-%d.mp4", "p-1%d.mp4", True),
        ("a.m3u8", "a%03d.ts", True),
        ("a.m3u8", "a1.m3u8", True),
        ("cam1-%d.mp4", "cam2-%d.mp4", False),
        ("p-%d.mp4", "p-%d.mkv", False),
        ("a.m3u8", "b.m3u8", False),
        ("rtsp://h/a", "rtsp://h/b", False),
    ],
)
def test_targets_that_may_write_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: str, other: str, same: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = sink_address(one, overwrite=False), sink_address(other, overwrite=False)
    assert first.meets(second) == second.meets(first) == same
    assert first.meets(first)


def test_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        sink_address(f"{tmp_path}/no/a.mp4", overwrite=False)
    with pytest.raises(OutputError, match="file name ending"):
        sink_address(f"{tmp_path}/a.xyz", overwrite=False)
    with pytest.raises(OutputError, match="file name ending"):
        sink_address("preview:http", overwrite=False)
    for name in ("a.avi", "a-%03d.AVI", "a.mpg", "a.webm"):
        with pytest.raises(OutputError, match=r"use \.mkv, \.mp4 or \.ts$"):
            sink_address(f"{tmp_path}/{name}", overwrite=False)
    for width in ("99", "0999", "9" * 100):
        with pytest.raises(OutputError, match="at most 20 digits"):
            sink_address(f"{tmp_path}/a-%{width}d.mp4", overwrite=False)
    for port in (0, 65536, 99999):
        with pytest.raises(ConfigError, match="from 1 to 65535"):
            sink_address(f"preview:{port}", overwrite=False)
    with pytest.raises(InputError, match="no such file or device"):
        source_address(f"{tmp_path}/nothing.mp4")
    os.mkfifo(tmp_path / "pipe")
    for there in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputError, match="neither a file nor a video device"):
            source_address(str(there))


@pytest.mark.parametrize("name", ["a.mkv", "a-%d.mkv", "list.m3u8", "hls/", "", "block/hls/"])
def test_a_folder_nobody_may_write_in_is_refused_at_once(name: str) -> None:
    """A worker would find out with the first picture, and try again for ever."""
    with pytest.raises(OutputError, match=r"no permission to write in /sys(/block)?: choose another folder"):
        sink_address(f"/sys/{name}", overwrite=False)


def test_links_that_lead_to_each_other_are_nobodys_file(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("pool")
    (tmp_path / "pool").symlink_to("loop")
    for target in ("a.mp4", "a-%d.mp4", "hls/"):
        address = sink_address(f"{tmp_path}/{target}", overwrite=False)
        assert not address.covers(tmp_path / "loop")
    assert sink_address(f"{tmp_path}/loop/", overwrite=False).covers(tmp_path / "loop" / "index.m3u8")


def test_what_anonymize_hands_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_live("rtsp://h/a") and is_live("/dev/null") and not is_live(str(tmp_path / "a.mp4"))
    assert is_live("rtsp:/admin:s3cret@cam/1") and not is_live("C:/a.mp4")
    monkeypatch.chdir(tmp_path)
    Path("ab:").mkdir()
    assert not is_live("ab:/c.mp4")
    assert source_address("/dev/null").kind == "device"


@pytest.mark.parametrize(
    ("url", "known", "words"),
    [
        (
            "rtsp://user:pa55@nowhere:554/a",
            False,
            "no address is known for the host nowhere: check its name",
        ),
        ("rtsps://user:pa55@[::1]:322/a", True, "the TLS connection failed or broke off: check"),
        ("rtsp://user:pa55@127.0.0.1/a", True, "the connection failed or broke off"),
    ],
)
def test_a_server_that_cannot_be_reached(url: str, known: bool, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg calls all of it an Input/output error."""
    asked = []

    def resolve(host: str, _: object) -> None:
        asked.append(host)
        if not known:
            raise socket.gaierror

    def refuse(*_: object, **__: object) -> None:
        raise error

    error = OSError(errno.EIO, "Input/output error")
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(Lost) as caught:
        Connection(source_address(url), transport="tcp", timeout=1.0)
    told = failure(sink_address(url, overwrite=False), error)
    assert str(caught.value) == told.text
    assert told.text.startswith(words) and not told.permanent
    assert asked == 2 * [source_address(url).host] and asked[0] in ("nowhere", "::1", "127.0.0.1")
