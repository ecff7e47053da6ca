"""insightface's own detector through its package: opt-in, its model packs are for non-commercial research only."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fluidvid.trackers.detectors.base import FaceDetector, scaled, session_providers
from fluidvid.trackers.session import CPU, Provider
from fluidvid.trackers.types import Detection, Image

log = logging.getLogger(__name__)


class InsightFace(FaceDetector):
    """`insightface.model_zoo` on a detector's ONNX file.

    Args:
        path: the detector's ONNX file, e.g. `~/.insightface/models/buffalo_l/det_10g.onnx`.
        score: detections below it are dropped.
        long_side: pictures are fitted into a square of this side.
        providers: onnxruntime's, in order of preference.
        threads: not used: the package opens its own session.

    Raises:
        ImportError: the package is not installed.
        FileNotFoundError: there is no such file.
        ValueError: insightface does not take the file for a detector.
    """

    name = "insightface"

    def __init__(
        self,
        path: Path,
        *,
        score: float = 0.3,
        long_side: int = 1280,
        providers: Sequence[Provider] = CPU,
        threads: int = 0,
    ) -> None:
        try:
            from insightface.model_zoo import get_model
        except ImportError as error:
            raise ImportError(
                "the insightface package is not installed: pip install 'fluidvid[insightface]', or --detector scrfd "
                "for the same network without it"
            ) from error
        log.warning("insightface's models are licensed for non-commercial research only")
        if not path.is_file():
            raise FileNotFoundError(f"no model file {path}")
        try:
            self._model = get_model(str(path), providers=list(providers))
        except Exception as error:
            raise ValueError(f"insightface cannot load {path}: {error}") from error
        if self._model is None or not hasattr(self._model, "detect"):
            raise ValueError(f"insightface does not take {path} for a face detector")
        side = -(-long_side // 32) * 32
        self._model.prepare(ctx_id=0, input_size=(side, side), det_thresh=score)

    @property
    def providers(self) -> tuple[str, ...]:
        """See `FaceDetector`."""
        return session_providers(self._model.session.get_providers())

    def close(self) -> None:
        """See `FaceDetector`."""
        vars(self).pop("_model", None)

    def detect(self, image: Image) -> list[Detection]:
        """See `FaceDetector`."""
        boxes, landmarks = self._model.detect(np.ascontiguousarray(image[..., ::-1]))
        if landmarks is None:
            raise ValueError("this insightface detector gives no landmarks: choose one of the *_kps or det_* files")
        found = np.asarray(boxes, dtype=np.float32).reshape(-1, 5)
        points = np.asarray(landmarks, dtype=np.float32).reshape(-1, 5, 2)
        return sorted(scaled(found[:, :4], found[:, 4], points, (1.0, 1.0), self.name), key=lambda d: -d.score)
