"""A camera for the tests: loops a clip at real-time pace and publishes it, as its own process.

Every picture can carry a number as a row of black and white blocks at the bottom, which survives coding: that of the
picture in the film, or the monotonic clock in milliseconds, by which a reader measures the way from glass to glass.
"""

from __future__ import annotations

import argparse
import time
from fractions import Fraction

import av
import cv2
import numpy as np
from numpy.typing import NDArray

BITS = 32
BLOCK = 8
"""Pixels per bit, each way, in a picture of at least `BITS * BLOCK` columns."""
# One slice a picture, on any number of cores: GStreamer's payloader (config-interval=-1) tears key frames of several
# apart.
CODING = {"preset": "ultrafast", "tune": "zerolatency", "g": "5", "threads": "1"}


def write_code(image: NDArray[np.uint8], number: int) -> None:
    """Draw the low 32 bits of `number` into `(H, W, 3)`."""
    bits = [(number >> i) & 1 for i in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8) * 215 + 20, BLOCK)
    image[-BLOCK:, : BITS * BLOCK] = row[None, :, None]


def read_code(image: NDArray[np.uint8]) -> int:
    """The number in `(H, W, 3)`."""
    line = image[-BLOCK + 2 : -2, : BITS * BLOCK].mean(axis=(0, 2)).reshape(BITS, BLOCK)[:, 2:-2].mean(axis=1)
    return sum(int(bit) << i for i, bit in enumerate(line > 127))


def milliseconds() -> int:
    """The monotonic clock, the same for all processes of a machine."""
    return int(time.monotonic() * 1000) & 0xFFFFFFFF


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip")
    parser.add_argument("url")
    parser.add_argument("--format", default="rtsp")
    parser.add_argument("--size", default="264x224")
    parser.add_argument("--rate", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--sound", action="store_true")
    parser.add_argument("--code", action="store_true", help="number the pictures")
    parser.add_argument("--clock", action="store_true", help="tell the time instead")
    parser.add_argument("--noise", action="store_true", help="no face: noise, which takes many bytes")
    args = parser.parse_args()
    av.logging.set_libav_level(av.logging.PANIC)
    width, height = (int(v) for v in args.size.split("x"))
    with av.open(args.clip) as clip:
        pictures = [
            cv2.resize(frame.to_ndarray(format="rgb24"), (width, height), interpolation=cv2.INTER_CUBIC)
            for frame in clip.decode(video=0)
        ]
    if args.noise:
        dice = np.random.default_rng(0)
        pictures = [dice.integers(0, 256, picture.shape, np.uint8) for picture in pictures[:5]]
    options = {"rtsp_transport": "tcp"} if args.format == "rtsp" else {}
    with av.open(args.url, "w", format=args.format, options=options) as out:
        video = out.add_stream("libx264", args.rate, options=CODING)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.codec_context.time_base = Fraction(1, 90000)
        sound = out.add_stream("pcm_alaw", rate=8000, layout="mono") if args.sound else None
        began, index, samples = time.monotonic(), 0, 0
        while index < args.seconds * args.rate:
            due = began + index / args.rate
            time.sleep(max(0.0, due - time.monotonic()))
            image = pictures[index % len(pictures)].copy()
            if args.code:
                write_code(image, milliseconds() if args.clock else index % len(pictures))
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(index * 90000 / args.rate), Fraction(1, 90000)
            out.mux(video.encode(frame))
            while sound is not None and samples < 8000 * index / args.rate:
                tone = (8000 * np.sin(2 * np.pi * 440 * (np.arange(160) + samples) / 8000)).astype(np.int16)
                chunk = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
                chunk.rate, chunk.pts = 8000, samples
                out.mux(sound.encode(chunk))
                samples += 160
            index += 1


if __name__ == "__main__":
    main()
