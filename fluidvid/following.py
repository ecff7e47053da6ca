"""From the detections of one picture to faces of tracks: the tracker's, and those that no track claims."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fluidvid.stages import Stages
from fluidvid.trackers.types import Detection, TrackedFace
from fluidvid.unclaimed import FIRST_ID, with_unclaimed


class Follower:
    """Follows faces from picture to picture.

    Args:
        stages: `tracker`, `embedder` and `uncertain` matter here.
        score: detections from it on are faces, whatever the tracker makes of them.
    """

    def __init__(self, stages: Stages, score: float) -> None:
        self._stages, self._score = stages, score
        self._unclaimed = 0

    def follow(
        self, index: int, image: NDArray[np.uint8], detections: Sequence[Detection], *, cut: bool
    ) -> list[TrackedFace]:
        """The faces of one `(H, W, 3)` uint8 picture; with `cut` all tracks end before it."""
        embeddings = self._appearances(image, detections)
        tracked = self._stages.tracker.update(index, detections, embeddings, scene_cut=cut)
        next_id = FIRST_ID + self._unclaimed
        faces = with_unclaimed(tracked, detections, frame=index, score=self._score, next_id=next_id)
        self._unclaimed += len(faces) - len(tracked)
        return faces

    def _appearances(self, image: NDArray[np.uint8], detections: Sequence[Detection]) -> NDArray[np.float32] | None:
        """`(N, D)` embeddings of the detections the tracker is uncertain of, zeros for the others; None without any."""
        stages = self._stages
        if stages.embedder is None or not detections:
            return None
        if stages.uncertain is None:
            return stages.embedder(image, detections)
        wanted = np.flatnonzero(stages.uncertain(detections)).tolist()
        if len(wanted) == 0:
            return None
        known = stages.embedder(image, [detections[i] for i in wanted])
        embeddings = np.zeros((len(detections), known.shape[1]), np.float32)
        embeddings[wanted] = known
        return embeddings
