"""Identity embeddings for tracking and linking. They live in memory only, for the length of the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fluidvid.geometry import ARCFACE_112, similarity
from fluidvid.trackers.align import crop as aligned_crop
from fluidvid.trackers.session import CPU, Provider, open_session
from fluidvid.trackers.types import Detection

SIDE = 112


class OnnxEmbedder:
    """An ArcFace-like network: 112 x 112 aligned RGB crops, `(x - 127.5) / 127.5`, NCHW.

    Args:
        path: the ONNX file.
        providers: onnxruntime's, in order of preference.
        threads: CPU threads of one run; 0: as many as there are cores.
    """

    def __init__(self, path: Path, providers: Sequence[Provider] = CPU, *, threads: int = 0) -> None:
        self._session = open_session(path, providers, threads=threads)
        self._input = self._session.get_inputs()[0].name

    def __call__(self, image: NDArray[np.uint8], detections: Sequence[Detection]) -> NDArray[np.float32]:
        """Embed N faces.

        Args:
            image: `(H, W, 3)` uint8 RGB.
            detections: their landmarks are used.

        Returns:
            `(N, D)` float32 of unit length; a row of zeros where the landmarks coincide.
        """
        crops = np.zeros((len(detections), SIDE, SIDE, 3), dtype=np.uint8)
        usable = np.ones(len(detections), dtype=bool)
        for i, detection in enumerate(detections):
            try:
                matrix = similarity(detection.landmarks, ARCFACE_112 * SIDE)
            except ValueError:
                usable[i] = False
                continue
            crops[i] = aligned_crop(image, matrix, SIDE)
        batch = (crops.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5
        raw = np.asarray(self._session.run(None, {self._input: batch})[0], dtype=np.float32)
        norms = np.linalg.norm(raw, axis=1, keepdims=True)
        embeddings = raw / np.maximum(norms, 1e-12)
        embeddings[~usable] = 0
        return np.asarray(embeddings, dtype=np.float32)
