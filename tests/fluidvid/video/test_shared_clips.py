"""The hostile containers of ../shared/clips: each is read, rewritten and compared with the source by PyAV alone."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

from fluidvid.errors import InputError
from fluidvid.video import VideoReader
from tests.fluidvid.video.media_files import rewrite, see

pytestmark = pytest.mark.shared

SECONDS = Fraction(3, 2)
CLIPS = [
    "bigbuckbunny.mp4",
    "chaplin.mp4",
    "decord_pancake.mkv",
    "decord_rot_90.mov",
    "decord_rot_180.mov",
    "decord_rot_270.mov",
    "derived_hevc10_s18.mp4",
    "derived_oddsize444_s18.mp4",
    "derived_rot90_phone.mp4",
    "derived_sar_s18.mp4",
    "derived_subs_hamilton.mkv",
    "derived_subs_hamilton.mp4",
    "derived_ts_offset.ts",
    "derived_vfr_hamilton.mp4",
    "fire2.mp4",
    "googlework_short.mp4",
    "grid_bbaf2n.mpg",
    "grid_lwbsza.mpg",
    "intel_asl_sister.mkv",
    "intel_asl_walk.mkv",
    "mmaction2_skeleton.mp4",
    "mmaction2_test.avi",
    "retalking_1.mp4",
    "short_hamilton_clip.mp4",
]
SUBTITLES = {"derived_subs_hamilton.mkv", "derived_subs_hamilton.mp4"}
# No cue may be cut short; two clips vary late only; PyAV's times of the AVI file are no basis for a cut.
WHOLE = {*SUBTITLES, "googlework_short.mp4", "mmaction2_skeleton.mp4", "mmaction2_test.avi"}
SOUND = {"bigbuckbunny.mp4", "chaplin.mp4", "decord_pancake.mkv", "derived_ts_offset.ts", "fire2.mp4"}
ROTATED = {"decord_rot_90.mov", "decord_rot_180.mov", "decord_rot_270.mov", "derived_rot90_phone.mp4", "fire2.mp4"}
VARIABLE = {"derived_vfr_hamilton.mp4", "googlework_short.mp4", "mmaction2_skeleton.mp4", "retalking_1.mp4"}


@pytest.mark.parametrize("name", CLIPS)
def test_a_rewritten_clip_is_the_source_in_all_but_the_encoding(shared: Path, tmp_path: Path, name: str) -> None:
    source, target = shared / "clips" / name, tmp_path / name
    end = None if name in WHOLE else SECONDS
    report, reader = rewrite(source, target, end=end, preset="ultrafast" if _takes_preset(source) else None)
    last = None if end is None else end + reader.info.start
    before, after = see(source, last), see(target)

    if name.endswith(".avi"):  # stores no times: PyAV invents them for B-frames, the reader knows better
        step = Fraction(1, 25)
        assert after.times == tuple(after.times[0] + n * step for n in range(len(before.times)))
    else:
        assert after.times == before.times
    assert after.time_base == before.time_base
    assert (after.codec, after.pix_fmt, after.size) == (before.codec, before.pix_fmt, before.size)
    assert (after.sar, after.rotation, after.colour) == (before.sar, before.rotation, before.colour)

    for kind in ("audio", "subtitle"):
        assert len(after.of(kind)) == len(before.of(kind))
        for old, new in zip(before.of(kind), after.of(kind), strict=True):
            assert (new.codec, new.language) == (old.codec, old.language)
            kept = tuple(p for p in old.packets if last is None or (p[0] is not None and p[0] < last))
            assert new.hashes == tuple(h for _, h in kept)
            # A program stream has times on some packets only; the demuxer counts on from the last, a tick up or down.
            tick = Fraction(1, 90000) if name.endswith(".mpg") else 0
            pairs = zip(new.packets, kept, strict=True)
            assert all(a is not None and b is not None and abs(a - b) <= tick for (a, _), (b, _) in pairs)
    assert {o.kind for o in after.others} <= {"audio", "subtitle"}
    assert reader.corrupt_frames == 0
    assert not any("replaces" in line or "lost" in line for line in (*report.warnings, *report.converted))

    # The clip shows what it is in the list for.
    assert (name not in SOUND) or before.of("audio")[0].packets
    assert (name not in ROTATED) or before.rotation
    assert (name not in SUBTITLES) or before.of("subtitle")[0].packets
    gaps = {b - a for a, b in pairwise(before.times)}
    assert (name not in VARIABLE) or len(gaps) > 1


@pytest.mark.parametrize("name", sorted(ROTATED))
def test_what_was_upright_is_upright(shared: Path, tmp_path: Path, name: str) -> None:
    source, target = shared / "clips" / name, tmp_path / name
    rewrite(source, target, end=Fraction(1, 2), preset="ultrafast")
    with VideoReader(source) as old, VideoReader(target) as new:
        a, b = next(iter(old)).rgb(), next(iter(new)).rgb()
    assert a.shape == b.shape
    assert abs(a.astype(int) - b).mean() < 4


def test_a_clip_without_index_fails_with_one_line_and_leaves_nothing(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="get a complete copy") as caught:
        rewrite(shared / "clips" / "derived_truncated.mp4", tmp_path / "out.mp4")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def _takes_preset(source: Path) -> bool:
    with VideoReader(source) as reader:
        return reader.info.codec in ("h264", "hevc")
