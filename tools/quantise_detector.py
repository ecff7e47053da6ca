"""Make the 8-bit form of the embedded CenterFace: half the time and a fraction of the memory on a CPU.

    python tools/quantise_detector.py --faces FACES.zip CLIP [CLIP ...]

Weights become 7-bit integers per channel (8 bits could saturate on CPUs without VNNI), activations 8-bit ones whose
ranges are measured on scenes: frames of the clips and coloured noise with (synthetic) faces pasted into them at many
sizes. The first convolutions stay in floating point: their activations have such long tails that faces were lost (21 of
177 on real footage; none with them left out). So do the outputs, which cost little and place the landmarks. Run
`tools/hash_assets.py` afterwards.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from fluidvid.engine.training.pictures import read_pictures

ASSETS = Path(__file__).resolve().parent.parent / "fluidvid" / "assets"
FIRST, LAST = 5, 4
"""Convolutions at the input and at the outputs that stay in floating point."""
SIZES = ((384, 640), (736, 1280), (160, 160))
Picture = NDArray[np.uint8]


class Scenes(CalibrationDataReader):  # type: ignore[misc]
    """`count` scenes, `(1, 3, H, W)` float32 RGB 0..255."""

    def __init__(self, faces: Picture, frames: list[Picture], count: int) -> None:
        self._scenes = self._drawn(faces, frames, count, np.random.default_rng(0))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next input of the network, None after the last."""
        scene = next(self._scenes, None)
        return None if scene is None else {"input": scene}

    @staticmethod
    def _drawn(
        faces: Picture, frames: list[Picture], count: int, chance: np.random.Generator
    ) -> Iterator[NDArray[np.float32]]:
        for number in range(count):
            height, width = SIZES[number % len(SIZES)]
            scene = np.zeros((height, width, 3), np.float32)
            if chance.random() < 0.5:
                scene += cv2.resize(frames[chance.integers(len(frames))], (width, height))
            else:
                for cell in (4, 16, 64):
                    noise = chance.uniform(0, 85, (max(2, height // cell), max(2, width // cell), 3))
                    scene += cv2.resize(noise.astype(np.float32), (width, height))
            for _ in range(chance.integers(1, 12)):
                side = int(np.exp(chance.uniform(np.log(20), np.log(0.9 * min(height, width)))))
                face = cv2.resize(faces[chance.integers(len(faces))], (side, side), interpolation=cv2.INTER_AREA)
                y, x = chance.integers(0, height - side + 1), chance.integers(0, width - side + 1)
                scene[y : y + side, x : x + side] = face
            scene = np.clip(scene * chance.uniform(0.4, 1.2) + chance.uniform(-20, 20), 0, 255)
            yield scene.astype(np.float32).transpose(2, 0, 1)[None]


def frames_of(clips: list[Path], every: int = 12) -> list[Picture]:
    """Every n-th frame of the clips, RGB."""
    found: list[Picture] = []
    for clip in clips:
        with av.open(str(clip)) as container:
            frames = enumerate(container.decode(video=0))
            found += [
                frame.to_ndarray(format="rgb24").astype(np.uint8) for index, frame in frames if index % every == 0
            ]
    return found


def main() -> None:
    """Write `centerface_int8.onnx` beside `centerface.onnx`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("clips", nargs="+", type=Path, metavar="CLIP")
    parser.add_argument("--faces", type=Path, required=True)
    options = parser.parse_args()
    faces = np.stack([picture for _, picture in read_pictures(options.faces)])
    scenes = Scenes(faces, frames_of(options.clips), 36)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(ASSETS / "centerface.onnx"), str(prepared), skip_symbolic_shape=True)
        convolutions = [node.name for node in onnx.load(prepared).graph.node if node.op_type == "Conv"]
        quantize_static(
            str(prepared),
            str(ASSETS / "centerface_int8.onnx"),
            scenes,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Add", "Relu"],
            per_channel=True,
            reduce_range=True,
            nodes_to_exclude=[*convolutions[:FIRST], *convolutions[-LAST:]],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


if __name__ == "__main__":
    main()
