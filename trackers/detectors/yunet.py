"""YuNet, OpenCV's detector, from its ONNX file (Wu et al., Machine Intelligence Research 2023)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fluidvid.trackers.detectors.base import OnnxDetector, above, fitted, scaled, suppressed
from fluidvid.trackers.types import Detection, Image

STRIDES = (8, 16, 32)


class YuNet(OnnxDetector):
    """YuNet with five landmarks.

    Args:
        path: the ONNX file; BGR 0..255, outputs cls, obj, bbox, kps at strides 8, 16, 32.
        others: see `OnnxDetector`.

    Raises:
        ValueError: the file does not have YuNet's outputs.
    """

    name = "yunet"

    def _check(self, path: Path) -> None:
        self._names = [output.name for output in self._session.get_outputs()]
        if "cls_8" not in self._names or "kps_32" not in self._names:
            raise ValueError(f"{path.name} is no YuNet: outputs cls_8 ... kps_32 are needed, it has {self._names}")

    def detect(self, image: Image) -> list[Detection]:
        """See `FaceDetector`."""
        picture, x_scale, y_scale = fitted(image, self._long_side)
        blob = np.ascontiguousarray(picture[..., ::-1].transpose(2, 0, 1)[None], dtype=np.float32)
        outputs = dict(zip(self._names, self._session.run(None, {self._input: blob}), strict=True))
        found: list[Detection] = []
        for stride in STRIDES:
            both = outputs[f"cls_{stride}"].reshape(-1) * outputs[f"obj_{stride}"].reshape(-1)
            scores = np.sqrt(np.clip(both, 0, 1)).astype(np.float32)
            good = np.flatnonzero(above(scores, self._score))
            across = picture.shape[1] // stride
            cells = np.stack([good % across, good // across], 1).astype(np.float32)
            box = outputs[f"bbox_{stride}"].reshape(-1, 4)[good]
            centres, sizes = (cells + box[:, :2]) * stride, np.exp(box[:, 2:]) * stride
            boxes = np.hstack([centres - sizes / 2, centres + sizes / 2]).astype(np.float32)
            points = (outputs[f"kps_{stride}"].reshape(-1, 5, 2)[good] + cells[:, None]) * stride
            found += scaled(boxes, scores[good], points.astype(np.float32), (x_scale, y_scale), self.name)
        return suppressed(found, 0.4)
