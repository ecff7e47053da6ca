"""SCRFD, insightface's detector, from a plain ONNX file (Guo et al., arXiv 2105.04714)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fluidvid.trackers.detectors.base import OnnxDetector, above, fitted, scaled, suppressed
from fluidvid.trackers.types import Detection, Image

STRIDES = (8, 16, 32)


class Scrfd(OnnxDetector):
    """SCRFD with five landmarks. insightface's own weights are for non-commercial research only.

    Args:
        path: the ONNX file; RGB (x - 127.5) / 128, two anchors a cell, nine outputs: scores, boxes, landmarks.
        others: see `OnnxDetector`.

    Raises:
        ValueError: the file does not have nine outputs.
    """

    name = "scrfd"

    def _check(self, path: Path) -> None:
        if len(self._session.get_outputs()) != 3 * len(STRIDES):
            raise ValueError(f"{path.name} is no SCRFD with landmarks: 9 outputs are needed")

    def detect(self, image: Image) -> list[Detection]:
        """See `FaceDetector`."""
        picture, x_scale, y_scale = fitted(image, self._long_side)
        blob = ((picture.astype(np.float32) - 127.5) / 128).transpose(2, 0, 1)[None]
        outputs = self._session.run(None, {self._input: blob})
        found: list[Detection] = []
        for i, stride in enumerate(STRIDES):
            scores = outputs[i].reshape(-1).astype(np.float32)
            good = np.flatnonzero(above(scores, self._score))
            cell = good // 2
            across = picture.shape[1] // stride
            centres = (np.stack([cell % across, cell // across], 1) * stride).astype(np.float32)
            sides = outputs[3 + i].reshape(-1, 4)[good] * stride
            boxes = np.hstack([centres - sides[:, :2], centres + sides[:, 2:]]).astype(np.float32)
            landmarks = outputs[6 + i].reshape(-1, 5, 2)[good] * stride + centres[:, None]
            found += scaled(boxes, scores[good], landmarks.astype(np.float32), (x_scale, y_scale), self.name)
        return suppressed(found, 0.4)
