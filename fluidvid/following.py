"""From the detections of one picture to faces of tracks: the tracker's, those before it was sure, those of no track."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fluidvid.config import FASTEST, Config
from fluidvid.rate import USUAL_RATE
from fluidvid.stages import Stages
from fluidvid.trackers.beginnings import Beginnings
from fluidvid.trackers.types import Detection, TrackedFace
from fluidvid.unclaimed import FIRST_ID, with_unclaimed


class Followed(NamedTuple):
    """Faces of one picture, and those of earlier ones that only became known with it."""

    faces: list[TrackedFace]
    earlier: list[TrackedFace]


class Follower:
    """Follows faces from picture to picture.

    Args:
        stages: `tracker`, `embedder`, `uncertain` and `rate` matter here.
        config: from `detect.score` on detections are faces, whatever the tracker makes of them; from `low_score` on
            they may be what such a face was before, with gaps of `track.max_gap`.
    """

    def __init__(self, stages: Stages, config: Config) -> None:
        self._stages, self._score = stages, config.detect.score
        reach = config.track.at_rate(stages.rate).max_gap
        rate = float(min(stages.rate or USUAL_RATE, FASTEST))
        self._beginnings = Beginnings(low_score=config.detect.low_score, high_score=self._score, reach=reach, rate=rate)
        self._unclaimed = 0

    def follow(self, index: int, image: NDArray[np.uint8], detections: Sequence[Detection], *, cut: bool) -> Followed:
        """The faces of one `(H, W, 3)` uint8 picture; with `cut` all tracks end before it."""
        embeddings = self._appearances(image, detections)
        tracked = self._stages.tracker.update(index, detections, embeddings, scene_cut=cut)
        next_id = FIRST_ID + self._unclaimed
        faces = with_unclaimed(tracked, detections, frame=index, score=self._score, next_id=next_id)
        self._unclaimed += len(faces) - len(tracked)
        return Followed(faces, self._beginnings.update(index, detections, tracked, cut=cut))

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
