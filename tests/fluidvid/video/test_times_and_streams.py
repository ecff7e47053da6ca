"""Times, sound, subtitles and tags: exact, copied bit by bit, or dropped and listed."""

from __future__ import annotations

import gc
import re
import struct
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.packet import Packet

from fluidvid.errors import ConfigError, InputError
from fluidvid.video import VideoReader
from fluidvid.video.containers import codecs_held, target_for
from fluidvid.video.info import picture_orientation
from fluidvid.video.orientation import Orientation
from fluidvid.video.silence import Untimed
from tests.fluidvid.video.media_files import RATE, SUBTITLES, Recipe, build, heard, rewrite, see

UNEVEN = (0, 1001, 2002, 9000, 9500, 12000, 30000, 30400, 47000)


def test_every_frame_of_the_demo_clip_keeps_its_time(clip: Path, tmp_path: Path) -> None:
    report, reader = rewrite(clip, tmp_path / "out.mp4")
    before, after = see(clip), see(tmp_path / "out.mp4")
    assert after.times == before.times
    assert len(after.times) == 120
    assert (after.codec, after.pix_fmt, after.size) == (before.codec, before.pix_fmt, before.size)
    assert (reader.corrupt_frames, report.dropped_streams) == (0, ())


def test_pictures_are_freed_without_the_garbage_collector(clip: Path) -> None:
    """It comes seldom: what waits for it is a run's memory."""
    with av.open(str(clip)) as container:
        pictures = [frame for frame, _ in zip(container.decode(video=0), range(5), strict=False)]
    gc.collect()
    gc.disable()
    try:
        assert all(picture_orientation(picture).quarter_turns == 0 for picture in pictures)
        pictures.clear()
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("start", [0, 5 * 30000 + 7], ids=["zero", "late"])
def test_variable_frame_rate_and_a_late_start_stay(clip: Path, tmp_path: Path, suffix: str, start: int) -> None:
    source = build(tmp_path / f"in{suffix}", clip, Recipe(pts=[start + pts for pts in UNEVEN], audio=["aac"]))
    rewrite(source, tmp_path / f"out{suffix}")
    before, after = see(source), see(tmp_path / f"out{suffix}")
    assert len(before.times) == len(UNEVEN)
    assert after.times == before.times
    assert after.time_base == before.time_base
    assert after.of("audio") == before.of("audio")


def test_sound_before_time_zero_moves_nothing_in_matroska(clip: Path, tmp_path: Path) -> None:
    """AAC in MP4 begins with a packet that is not heard; Matroska knows no time before zero."""
    source = build(tmp_path / "in.mp4", clip, Recipe(audio=["aac"], options={"bf": "2"}))
    rewrite(source, tmp_path / "out.mkv")
    before, after = see(source), see(tmp_path / "out.mkv")
    heard = [(t, h) for t, h in before.of("audio")[0].packets if t is not None and t >= 0]
    assert len(heard) < len(before.of("audio")[0].packets)
    assert [h for _, h in heard] == list(after.of("audio")[0].hashes)
    pairs = [*zip(before.times, after.times, strict=True)]
    pairs += [(t, u) for (t, _), (u, _) in zip(heard, after.of("audio")[0].packets, strict=True) if u is not None]
    assert all(abs(t - u) <= Fraction(1, 1000) for t, u in pairs)


def test_the_last_frame_keeps_its_length(clip: Path, tmp_path: Path) -> None:
    source = build(tmp_path / "in.mp4", clip, Recipe(pts=UNEVEN))
    rewrite(source, tmp_path / "out.mp4")
    assert see(tmp_path / "out.mp4").duration == see(source).duration


def test_a_transport_stream_keeps_its_clock(clip: Path, tmp_path: Path) -> None:
    late = [5000 * 90000 + n * 3003 for n in range(24)]
    source = build(tmp_path / "in.ts", clip, Recipe(time_base=Fraction(1, 90000), pts=late))
    rewrite(source, tmp_path / "out.ts")
    assert see(source).times[0] >= 5000
    assert see(tmp_path / "out.ts").times == see(source).times


def test_avi_begins_at_zero_however_late_the_source_does(clip: Path, tmp_path: Path) -> None:
    """Its muxer fills up to the first picture, and fails at 65,000: when all pictures had been looked at."""
    late = [5000 * 90000 + n * 3003 for n in range(24)]
    source = build(tmp_path / "in.ts", clip, Recipe(time_base=Fraction(1, 90000), pts=late))
    report, _ = rewrite(source, tmp_path / "out.avi")
    times = see(tmp_path / "out.avi").times
    assert len(times) == 24 and times[0] < 1
    assert any("starts at 5000.000 s" in line for line in report.warnings)


@pytest.mark.parametrize(("suffix", "text"), [(".mp4", "mov_text"), (".mkv", "subrip")])
def test_sound_and_subtitles_are_copied_bit_by_bit(clip: Path, tmp_path: Path, suffix: str, text: str) -> None:
    source = build(tmp_path / f"in{suffix}", clip, Recipe(audio=["aac", "aac"], subtitles=text))
    report, _ = rewrite(source, tmp_path / f"out{suffix}")
    before, after = see(source), see(tmp_path / f"out{suffix}")
    assert [o.language for o in after.of("audio")] == ["deu", "fra"]
    assert all(len(o.packets) > 5 for o in after.of("audio"))
    assert after.of("audio") == before.of("audio")
    assert after.of("subtitle") == before.of("subtitle")
    assert after.of("subtitle")[0].language == "nld"
    assert any("voices identify" in warning for warning in report.warnings)


@pytest.mark.parametrize(("first", "second"), [("in.mkv", "out.mp4"), ("in.mp4", "out.mkv")])
def test_subtitles_change_their_form_with_the_container(clip: Path, tmp_path: Path, first: str, second: str) -> None:
    text = "subrip" if first.endswith("mkv") else "mov_text"
    report, _ = rewrite(build(tmp_path / first, clip, Recipe(subtitles=text)), tmp_path / second)
    assert any("styling is lost" in line for line in report.converted)
    with av.open(str(tmp_path / second)) as result:
        packets = [p for p in result.demux(subtitles=0) if p.size > 2]  # mov_text stores gaps as cues of two zeros
        cues = [((p.pts or 0) * p.time_base, bytes(p)) for p in packets]
    assert [time for time, _ in cues] == [time for time, _ in SUBTITLES]
    assert all(words.encode() in data for (_, words), (_, data) in zip(SUBTITLES, cues, strict=True))


def test_a_stream_the_container_cannot_hold_is_dropped_with_the_reason(clip: Path, tmp_path: Path) -> None:
    source = build(tmp_path / "in.mkv", clip, Recipe(audio=["flac"], subtitles="subrip"))
    report, _ = rewrite(source, tmp_path / "out.ts")
    assert see(tmp_path / "out.ts").others == ()
    assert any("flac" in line and ".mkv" in line for line in report.dropped_streams)
    assert any("subrip" in line for line in report.dropped_streams)


def test_a_dropped_stream_is_not_sent_where_it_was_refused(clip: Path, tmp_path: Path) -> None:
    report, _ = rewrite(build(tmp_path / "in.mov", clip, Recipe(audio=["pcm_f32be"])), tmp_path / "out.mkv")
    (line,) = report.dropped_streams
    assert line.endswith("choose a file name ending in .mov to keep it")


@pytest.mark.parametrize(
    ("codec", "first", "suffix"),
    [
        ("pcm_alaw", "in.mov", ".mkv"),
        ("pcm_mulaw", "in.mov", ".mp4"),
        ("adpcm_ms", "in.avi", ".mkv"),
        ("adpcm_ima_wav", "in.avi", ".mkv"),
    ],
)
def test_sound_of_cameras_keeps_its_samples_where_its_codec_has_no_place(
    clip: Path, tmp_path: Path, codec: str, first: str, suffix: str
) -> None:
    source = build(tmp_path / first, clip, Recipe("mpeg4", audio=[codec], time_base=Fraction(1, 30), pts=range(24)))
    result = tmp_path / f"out{suffix}"
    report, _ = rewrite(source, result)
    assert not report.dropped_streams and len(see(result).times) == 24
    assert report.converted == (f"audio stream 1: {codec} to pcm_s16le, nothing is lost",)
    (before, begun), (after, begins) = heard(source), heard(result)
    assert after.any() and np.array_equal(after, before)
    assert begins == pytest.approx(begun, abs=0.001)


def test_sound_of_cameras_is_dropped_where_its_rate_has_no_place(clip: Path, tmp_path: Path) -> None:
    """FFmpeg's FLV muxer writes PCM of 8 kHz as if it were of 5.5."""
    report, _ = rewrite(build(tmp_path / "in.avi", clip, Recipe("mpeg4", audio=["adpcm_ms"])), tmp_path / "out.flv")
    assert not see(tmp_path / "out.flv").of("audio")
    assert report.converted == ()
    assert any("8000 Hz" in line and ".avi" in line for line in report.dropped_streams)


def test_a_part_keeps_the_samples_of_its_sound_alone(clip: Path, tmp_path: Path) -> None:
    source = build(tmp_path / "in.mov", clip, Recipe(audio=["pcm_mulaw"]))
    rewrite(source, tmp_path / "out.mkv", start=Fraction(1, 4), end=Fraction(1, 2))
    (whole, _), (part, begins) = heard(source), heard(tmp_path / "out.mkv")
    assert part.size / RATE == pytest.approx(0.25, abs=2 * 1024 / RATE)
    assert 0 <= begins[0] < 1024 / RATE
    assert part.tobytes() in whole.tobytes()


def test_a_packet_that_is_no_sound_is_missing_and_said(clip: Path, tmp_path: Path) -> None:
    recipe = Recipe("mpeg4", audio=["adpcm_ima_wav"], time_base=Fraction(1, 30), pts=range(24))
    source = build(tmp_path / "in.avi", clip, recipe)
    with av.open(str(source)) as container:
        whole = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    data = source.read_bytes()
    assert data.count(whole[1]) == 1
    source.write_bytes(data.replace(whole[1], b"\xff" * len(whole[1])))  # a step of 255 where 88 is the last
    report, _ = rewrite(source, tmp_path / "out.mkv")
    assert [line for line in report.warnings if "cannot be decoded" in line] == [
        "parts of audio stream 1 cannot be decoded and are missing (Invalid data found when processing input)"
    ]
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert len([packet for packet in container.demux(audio=0) if packet.size]) == len(whole) - 1


@pytest.mark.parametrize(
    ("suffix", "recipe"),
    [
        (".mov", Recipe(audio=["flac"])),
        (".mov", Recipe("libvpx-vp9", options={"deadline": "realtime"})),
        (".flv", Recipe("mpeg4", time_base=Fraction(1, 30), pts=range(24))),
    ],
    ids=["flac in mov", "vp9 in mov", "mpeg4 in flv"],
)
def test_what_a_muxer_lists_and_then_refuses_is_dropped_or_replaced(
    clip: Path, tmp_path: Path, suffix: str, recipe: Recipe
) -> None:
    """FFmpeg's lists are longer than its muxers': the first packet would have ended the run."""
    source = build(tmp_path / "in.mkv", clip, recipe)
    report, _ = rewrite(source, tmp_path / f"out{suffix}")
    assert len(see(tmp_path / f"out{suffix}").times) == 24
    assert report.codec == "h264"
    assert any("cannot hold" in line for line in (*report.dropped_streams, *report.warnings))


@pytest.mark.parametrize(
    ("codec", "rate", "suffix", "kept"),
    [
        ("pcm_s16le", 44_100, ".flv", True),
        ("pcm_s16le", 22_050, ".flv", True),
        ("pcm_s16le", 16_000, ".flv", False),
        ("pcm_s16le", 8000, ".flv", False),
        ("pcm_mulaw", 8000, ".flv", True),
        ("pcm_mulaw", 22_050, ".flv", False),
        ("libmp3lame", 8000, ".flv", False),
        ("libmp3lame", 8000, ".mp4", False),
        ("libmp3lame", 8000, ".mkv", True),
    ],
)
def test_sound_of_an_unusual_rate_or_without_a_layout(
    clip: Path, tmp_path: Path, codec: str, rate: int, suffix: str, kept: bool
) -> None:
    """FFmpeg's FLV muxer aborts the process where PCM has no layout, and takes PCM of 8 and 16 kHz, which is then
    played as if it were of 5.5; others refuse MP3 of 8 kHz at the end."""
    other = ".mov" if codec == "pcm_mulaw" else ".mkv"
    source = build(tmp_path / f"in{other}", clip, Recipe(audio=[codec], rate=rate))
    report, _ = rewrite(source, tmp_path / f"out{suffix}")
    sound = see(tmp_path / f"out{suffix}").of("audio")
    assert [o.hashes for o in sound] == ([see(source).of("audio")[0].hashes] if kept else [])
    with av.open(str(tmp_path / f"out{suffix}")) as result:
        assert [s.rate for s in result.streams.audio] == ([rate] if kept else [])
    assert any(f"{rate} Hz" in line and other in line for line in report.dropped_streams) == (not kept)


DELAY, GAP, PIECE = 18_000, 24_000, 1536
TIMES = [number * PIECE + DELAY + (GAP if number > 15 else 0) for number in range(32)]
"""Of a second of sound that begins after `DELAY` samples, with `GAP` in the middle."""


def with_gaps(path: Path, clip: Path, codec: str, times: Sequence[int] = TIMES, piece: int = PIECE) -> Path:
    """The demo clip with pieces of sound at 48 kHz, at times in samples."""
    with av.open(str(path), "w") as out, av.open(str(clip)) as container:
        video = out.add_stream_from_template(container.streams.video[0])
        sound: Any = out.add_stream(codec, rate=48_000, layout="mono")
        for packet in (p for p in container.demux(video=0) if p.size):
            packet.stream = video
            out.mux(packet)
        form = sound.codec_context.format.name
        kind = {"s16": np.int16, "u8": np.uint8}.get(form, np.float32)
        for time in times:
            samples = av.AudioFrame.from_ndarray(np.full((1, piece), 1, kind), format=form, layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = 48_000, time, Fraction(1, 48_000)
            out.mux(sound.encode(samples))
        out.mux(sound.encode(None))
    return path


@pytest.mark.parametrize(("codec", "silent"), [("pcm_s16le", 0), ("pcm_u8", 128)])
@pytest.mark.parametrize("suffix", [".avi", ".mov", ".mkv"])
def test_gaps_of_sound_that_is_not_compressed_are_kept(
    clip: Path, tmp_path: Path, codec: str, silent: int, suffix: str
) -> None:
    """AVI stores no times of sound, QuickTime that of the first sample alone."""
    report, _ = rewrite(with_gaps(tmp_path / "in.mkv", clip, codec), tmp_path / f"out{suffix}")
    kind = np.uint8 if silent else np.int16
    heard = np.full(DELAY + GAP + 33 * PIECE, silent, kind)
    with av.open(str(tmp_path / f"out{suffix}")) as result:
        end: Fraction | None = None
        for packet in (p for p in result.demux(audio=0) if p.size):
            end = end if suffix != ".mkv" and end is not None else (packet.pts or 0) * packet.time_base
            at = round(end * 48_000)
            samples = np.frombuffer(bytes(packet), kind)
            heard[at : at + len(samples)] = samples
            end += Fraction(len(samples), 48_000)
    sounding = np.flatnonzero(heard == 1)
    begins, ends = sounding[0], sounding[-1] + 1
    assert abs(begins - DELAY) <= 48 and abs(ends - (DELAY + GAP + 32 * PIECE)) <= 48, "Matroska rounds to milliseconds"
    assert len(sounding) == 32 * PIECE
    assert not any("early" in line for line in report.warnings)


@pytest.mark.parametrize("suffix", [".avi", ".mov"])
@pytest.mark.parametrize("apart", [1536, 1920, 3000])
def test_short_pieces_of_sound_far_apart(clip: Path, tmp_path: Path, suffix: str, apart: int) -> None:
    """Gaps below a picture's length add up: what is stored lags by more than a piece, then silence catches up."""
    times = range(0, 20 * apart, apart)
    report, _ = rewrite(with_gaps(tmp_path / "in.mkv", clip, "pcm_s16le", times, 480), tmp_path / f"out{suffix}")
    with av.open(str(tmp_path / f"out{suffix}")) as result:
        heard = np.concatenate([np.frombuffer(bytes(p), np.int16) for p in result.demux(audio=0) if p.size])
    begins = np.flatnonzero(heard == 1)[::480]
    assert len(begins) == 20 and np.abs(begins - np.array(times)).max() <= 48_000 / 25
    assert not any("audio" in line for line in report.warnings)


@pytest.mark.parametrize("suffix", [".avi", ".mov", ".mkv"])
def test_gaps_of_compressed_sound_are_kept_or_said_to_be_lost(clip: Path, tmp_path: Path, suffix: str) -> None:
    report, _ = rewrite(with_gaps(tmp_path / "in.mkv", clip, "ac3"), tmp_path / f"out{suffix}")
    told = [line for line in report.warnings if "early" in line]
    times = [[time for time, _ in see(tmp_path / name).of("audio")[0].packets] for name in ("in.mkv", f"out{suffix}")]
    if suffix == ".avi":
        assert len(told) == 1 and "audio stream 1" in told[0] and "0.87" in told[0]
    else:
        assert told == [] and times[0] == times[1]


def test_silence_comes_in_pieces_and_has_its_end() -> None:
    sound = Untimed("pcm_s16le", 8000, 2, step=Fraction(1, 25), begins=Fraction(0))
    pieces = list(sound.before(Fraction(5, 2), 32_000, Fraction(0)))
    assert [(float(time), len(data)) for time, data in pieces] == [(0.0, 32_000), (1.0, 32_000), (2.0, 16_000)]
    assert list(sound.before(Fraction(7, 2) + Fraction(1, 30), 32_000, Fraction(0))) == []
    assert list(sound.before(Fraction(10_000), 32_000, Fraction(0))) == []
    assert sound.lost == 10_000 - Fraction(9, 2)


@pytest.mark.parametrize(("channels", "kept"), [(2, "stereo"), (6, "5.1"), (9, None)])
def test_pcm_without_a_layout_goes_into_mp4(clip: Path, tmp_path: Path, channels: int, kept: str | None) -> None:
    """AVI gives the number of channels alone, MP4 must be told their places."""
    with av.open(str(tmp_path / "in.avi"), "w") as out:
        video = out.add_stream("mjpeg", rate=25, width=64, height=48, pix_fmt="yuvj420p")
        sound = out.add_stream("pcm_s16le", rate=8000, layout=f"{channels}C")
        wave = np.arange(8000 * channels, dtype=np.int16)[None]
        samples = av.AudioFrame.from_ndarray(wave, layout=f"{channels}C")
        samples.sample_rate = 8000
        out.mux(video.encode(av.VideoFrame(64, 48, "yuvj420p")))
        out.mux([*video.encode(None), *sound.encode(samples), *sound.encode(None)])
    report, _ = rewrite(tmp_path / "in.avi", tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as result:
        assert [s.layout.name for s in result.streams.audio] == ([kept] if kept else [])
        data = b"".join(bytes(packet) for packet in result.demux(audio=0)) if kept else wave.tobytes()
    assert data == wave.tobytes()
    assert any("9 channels" in line and ".mkv" in line for line in report.dropped_streams) == (kept is None)


@pytest.mark.parametrize(("kind", "known"), [("audio", b"A_AAC"), ("subtitle", b"S_TEXT/UTF8")])
def test_a_stream_that_nothing_here_decodes_is_dropped_with_the_reason(
    clip: Path, tmp_path: Path, kind: str, known: bytes
) -> None:
    """Such as the teletext of a broadcast, TTML in MP4, WebVTT as mkvmerge writes it, AC-4."""
    source = build(tmp_path / "in.mkv", clip, Recipe(audio=["aac"], subtitles="subrip"))
    content = source.read_bytes()
    assert content.count(known) == 1
    source.write_bytes(content.replace(known, known[:2] + b"X" * (len(known) - 2)))
    report, _ = rewrite(source, tmp_path / "out.mkv")
    (line,) = report.dropped_streams
    assert line.startswith(f"{kind} stream")
    assert "no decoder" in line
    assert len(see(tmp_path / "out.mkv").others) == 1


def test_truehd_is_dropped_where_ffmpeg_calls_it_experimental() -> None:
    assert "truehd" not in codecs_held(target_for(Path("out.mp4")))
    assert "truehd" in codecs_held(target_for(Path("out.mkv")))


def test_pictures_within_one_tick_move_to_the_next(clip: Path, tmp_path: Path) -> None:
    """AVI counts frames at the mean rate, and its muxer refuses a number twice."""
    source = build(tmp_path / "in.mp4", clip, Recipe(pts=UNEVEN))
    rewrite(source, tmp_path / "out.avi")
    times = see(tmp_path / "out.avi").times
    assert len(times) == len(UNEVEN)
    assert len(set(times)) == len(UNEVEN)


TAGS = {"location": "+52.3702+004.8952/", "creation_time": "2020-01-02T03:04:05.000000Z", "comment": "Jane's phone"}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_cover_art_and_tags_are_dropped_and_listed_or_kept_on_request(clip: Path, tmp_path: Path, suffix: str) -> None:
    recipe = Recipe(cover=suffix == ".mp4", attachment=suffix == ".mkv", tags=TAGS)
    source = build(tmp_path / f"in{suffix}", clip, recipe)
    report, _ = rewrite(source, tmp_path / f"out{suffix}")
    assert see(tmp_path / f"out{suffix}").others == ()
    assert len(report.dropped_streams) == 1
    listed = " ".join(report.dropped_metadata).lower()
    assert all(name in listed for name in TAGS)
    assert not any(value in listed for value in TAGS.values())
    raw = (tmp_path / f"out{suffix}").read_bytes()
    assert not any(value.encode() in raw for value in (*TAGS.values(), "names of people"))

    kept, _ = rewrite(source, tmp_path / f"kept{suffix}", keep_metadata=True)
    after = see(tmp_path / f"kept{suffix}")
    assert (kept.dropped_streams, kept.dropped_metadata) == ((), ())
    assert len(after.others) == 1
    assert "Jane's phone" in after.tags.values()


def test_cover_art_that_a_file_cannot_hold_is_listed(clip: Path, tmp_path: Path) -> None:
    source = build(tmp_path / "in.mp4", clip, Recipe(cover=True, tags=TAGS))
    report, _ = rewrite(source, tmp_path / "out.mov", keep_metadata=True)
    assert see(tmp_path / "out.mov").others == ()
    assert any("picture stream" in line and ".mkv" in line for line in report.dropped_streams)
    assert not any("cover art" in line for line in report.warnings)


def test_a_cut_begins_at_zero_with_sound_and_subtitles_in_step(clip: Path, tmp_path: Path) -> None:
    recipe = Recipe(pts=range(0, 60 * 1001, 1001), audio=["aac"], subtitles="subrip")
    source = build(tmp_path / "in.mkv", clip, recipe)
    start, end = Fraction(2, 5), Fraction(3, 2)
    rewrite(source, tmp_path / "out.mkv", start=start, end=end)
    before, after = see(source), see(tmp_path / "out.mkv")
    assert list(after.times) == [t - start for t in before.times if start <= t < end]
    inside = [(t - start, h) for t, h in before.of("audio")[0].packets if t is not None and start <= t < end]
    assert list(after.of("audio")[0].packets) == inside
    assert [t for t, _ in after.of("subtitle")[0].packets] == [SUBTITLES[1][0] - start]


@pytest.mark.parametrize(("suffix", "codec", "sound"), [(".ts", "libx264", ["aac"]), (".mpg", "mpeg2video", [])])
def test_a_cut_between_key_frames_of_a_broadcast_loses_nothing(
    clip: Path, tmp_path: Path, suffix: str, codec: str, sound: list[str]
) -> None:
    """There is no index of key frames: a seek lands on any packet, and all up to the next key frame would be lost."""
    recipe = Recipe(codec, time_base=Fraction(1, 30), pts=range(90), options={"g": "40", "bf": "0"}, audio=sound)
    source = build(tmp_path / f"in{suffix}", clip, recipe)
    before = see(source)
    first = before.times[50]
    with VideoReader(source) as reader:
        begin = reader.info.start
    rewrite(source, tmp_path / f"out{suffix}", start=first - begin)
    after = see(tmp_path / f"out{suffix}")
    assert list(after.times) == [time - first for time in before.times[50:]]
    for was, became in zip(before.of("audio"), after.of("audio"), strict=True):
        assert list(became.packets) == [(t - first, h) for t, h in was.packets if t is not None and t >= first]


@pytest.mark.parametrize(("start", "end"), [(2, 1), (-1, None), (None, 0), (1000, None)])
def test_an_impossible_cut_is_refused(clip: Path, start: int | None, end: int | None) -> None:
    wrong = InputError if start == 1000 else ConfigError  # the file's length is nothing the command line says
    with pytest.raises(wrong, match=r"give 0 <= start|choose an earlier start"):
        VideoReader(
            clip,
            start=None if start is None else Fraction(start),
            end=None if end is None else Fraction(end),
        )


def test_an_impossible_cut_is_told_in_seconds(clip: Path) -> None:
    with pytest.raises(ConfigError, match="between start 0 s and end 0 s:"):
        VideoReader(clip, end=Fraction(0))
    with pytest.raises(ConfigError, match=r"between start 0\.3 s and end 0\.25 s:"):
        VideoReader(clip, start=Fraction(3, 10), end=Fraction(1, 4))


def test_frames_are_numbered_and_know_their_length(clip: Path, tmp_path: Path) -> None:
    source = build(tmp_path / "in.mp4", clip, Recipe(pts=UNEVEN))
    with VideoReader(source) as reader:
        frames = [(f.index, f.pts, f.duration) for f in reader]
    assert [index for index, _, _ in frames] == list(range(len(UNEVEN)))
    assert [pts for _, pts, _ in frames] == list(UNEVEN)
    gaps = [b - a for a, b in pairwise(UNEVEN)]
    assert [duration for _, _, duration in frames[:-1]] == gaps


def test_fields_of_changing_size_are_woven_and_scaled(clip: Path, tmp_path: Path) -> None:
    """Broadcasts change their size between programmes."""
    parts = []
    for name, size in (("a.ts", (176, 144)), ("b.ts", (96, 80))):
        options = {"x264-params": "tff=1:keyint=1:repeat-headers=1"}
        parts.append(build(tmp_path / name, clip, Recipe(size=size, options=options, pts=range(0, 12 * 1200, 1200))))
    source = tmp_path / "in.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    with VideoReader(source) as reader:
        assert reader.info.interlaced
        shapes = [frame.rgb().shape for frame in reader]
    assert len(shapes) >= 22
    assert set(shapes) == {(144, 176, 3)}
    assert any("changes its size" in warning for warning in reader.warnings)


@pytest.mark.parametrize("kind", ["exif", "icc"])
def test_what_the_pictures_of_a_camera_carry_does_not_leave(clip: Path, tmp_path: Path, kind: str) -> None:
    """PyAV does not know EXIF; a colour profile may name the device, and FFmpeg's MJPEG encoder writes it."""
    first = build(tmp_path / "first.mov", clip, Recipe(codec="mjpeg", pix_fmt="yuvj420p"))
    words = b"Jane Roe 52.5N 13.4E\0"
    tiff = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x010E, 2, len(words), 26, 0) + words
    content, number = (b"Exif\0\0" + tiff, 1) if kind == "exif" else (b"ICC_PROFILE\0\1\1" + bytes(128) + words, 2)
    marker = b"\xff" + bytes([0xE0 + number]) + struct.pack(">H", len(content) + 2) + content
    with av.open(str(first)) as container, av.open(str(tmp_path / "in.mov"), "w") as out:
        stream = out.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.size:
                data = bytes(packet)
                made = Packet(data[:2] + marker + data[2:])
                made.pts, made.dts, made.time_base, made.stream = packet.pts, packet.dts, packet.time_base, stream
                made.is_keyframe = True
                out.mux(made)
    assert words in (tmp_path / "in.mov").read_bytes()
    report, _ = rewrite(tmp_path / "in.mov", tmp_path / "out.mp4")
    assert report.codec == "mjpeg" and any("(ICC)" in line for line in report.warnings) == (kind == "icc")
    assert see(tmp_path / "out.mp4").times == see(tmp_path / "in.mov").times
    assert b"Jane Roe" not in (tmp_path / "out.mp4").read_bytes()


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_turn_is_read_from_its_angle_as_from_its_matrix(clip: Path, tmp_path: Path, turn: int) -> None:
    source = build(tmp_path / "in.mov", clip, Recipe(turn=turn, pts=range(3)))
    with av.open(str(source)) as container:
        picture = next(container.decode(video=0))
    assert Orientation.from_angle(picture.rotation).quarter_turns == picture_orientation(picture).quarter_turns


def test_what_a_container_cannot_hold_is_listed_though_tags_are_kept(clip: Path, tmp_path: Path) -> None:
    """Only once the whole video was looked through would the muxer say so."""
    source = build(tmp_path / "in.mkv", clip, Recipe(attachment=True, pts=range(0, 3003, 1001)))
    report, _ = rewrite(source, tmp_path / "out.mp4", keep_metadata=True)
    assert any("attachment" in line and ".mkv" in line for line in report.dropped_streams)
    assert len(see(tmp_path / "out.mp4").times) == 3


def test_sound_that_outlasts_the_picture_is_no_early_end(clip: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    with av.open(str(clip)) as pictures, av.open(str(source), "w") as out:
        video = out.add_stream_from_template(pictures.streams.video[0])
        sound = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        for packet in pictures.demux(video=0):
            if packet.size:
                packet.stream = video
                out.mux(packet)
        length = int(pictures.streams.video[0].frames / 25) + 8
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        for second in range(length):
            silence.sample_rate, silence.pts, silence.time_base = 8000, 8000 * second, Fraction(1, 8000)
            out.mux(sound.encode(silence))
    with VideoReader(source) as reader:
        list(reader)
        assert not any("early" in line for line in reader.warnings)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("sound", [[], ["aac"]])
def test_a_late_beginning_is_no_early_end(clip: Path, tmp_path: Path, suffix: str, sound: list[str]) -> None:
    """Matroska states when a file ends, not how long it is."""
    times = range(5 * 30_000, 6 * 30_000, 1000)
    with VideoReader(build(tmp_path / f"in{suffix}", clip, Recipe(pts=times, audio=sound))) as reader:
        assert len(list(reader)) == 30
        assert not any("early" in line for line in reader.warnings)
        assert reader.info.duration is not None and abs(reader.info.duration - 1) < Fraction(1, 20)


def test_the_frame_rate_of_dv_is_not_that_of_its_ticks(clip: Path, tmp_path: Path) -> None:
    """A tape of a camcorder has 25 pictures a second, FFmpeg says 60000: everything in frames would be stretched."""
    encoder = av.CodecContext.create("dvvideo", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = 720, 576, "yuv420p"
    encoder.time_base = Fraction(1, 25)
    tape = b"".join(
        bytes(packet)
        for picture in (av.VideoFrame(720, 576, "yuv420p") for _ in range(30))
        for packet in encoder.encode(picture)
    )
    (tmp_path / "in.dv").write_bytes(tape)
    with VideoReader(tmp_path / "in.dv") as reader:
        assert reader.info.average_rate == 25
        assert reader.info.frames_estimate == 30


def test_a_length_that_a_cut_left_in_the_tags_is_not_believed(clip: Path, tmp_path: Path) -> None:
    source = build(tmp_path / "in.mkv", clip, Recipe())
    data = source.read_bytes()
    (told,) = set(re.findall(rb"00:00:00\.\d{9}", data))
    source.write_bytes(data.replace(told, b"00:00:59" + told[8:]))
    with VideoReader(source) as reader:
        list(reader)
        assert not any("early" in line for line in reader.warnings)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("wrong", ["decoding", "mixed"])
def test_pictures_whose_times_are_out_of_order_are_not_damaged(
    clip: Path, tmp_path: Path, suffix: str, wrong: str
) -> None:
    """Of those that come late none is lost, and none is invented in its place."""
    options = {"preset": "veryfast", "bf": "3"}
    first = build(tmp_path / f"first{suffix}", clip, Recipe(options=options))
    source = tmp_path / f"in{suffix}"
    with av.open(str(first)) as container, av.open(str(source), "w") as out:
        stream = out.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(p for p in container.demux(video=0) if p.size):
            step = 10 if suffix == ".mkv" else 300
            packet.dts = number * step
            packet.pts = packet.dts if wrong == "decoding" or number % 3 != 1 else packet.dts + 5 * step
            packet.stream = stream
            out.mux(packet)
    with VideoReader(first) as good, VideoReader(source) as reader:
        before, after = ([frame.rgb() for frame in file] for file in (good, reader))
    assert reader.corrupt_frames == 0
    assert any("do not increase" in line for line in reader.warnings)
    np.testing.assert_array_equal(np.stack(before), np.stack(after))
