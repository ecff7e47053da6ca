"""Video files in and out: exact times, every sound and subtitle kept, nothing identifying left by default."""

from __future__ import annotations

from fluidvid.video.frame import Frame
from fluidvid.video.info import StreamInfo, VideoInfo
from fluidvid.video.reader import VideoReader
from fluidvid.video.writer import MuxReport, VideoWriter

__all__ = ["Frame", "MuxReport", "StreamInfo", "VideoInfo", "VideoReader", "VideoWriter"]
