"""Faces in pictures and time: detect, align, track, link."""

from fluidvid.trackers.beginnings import Beginnings
from fluidvid.trackers.completion import complete_tracks
from fluidvid.trackers.cuts import SceneCutDetector
from fluidvid.trackers.detectors import (
    DETECTORS,
    EnsembleDetector,
    FaceDetector,
    MirroredDetector,
    RefinedDetector,
    build_detector,
)
from fluidvid.trackers.linking import link_tracks
from fluidvid.trackers.pose import FacePose, face_pose
from fluidvid.trackers.smoothing import smooth_transforms
from fluidvid.trackers.tracking import Tracker
from fluidvid.trackers.types import Detection, TrackedFace

__all__ = [
    "DETECTORS",
    "Beginnings",
    "Detection",
    "EnsembleDetector",
    "FaceDetector",
    "FacePose",
    "MirroredDetector",
    "RefinedDetector",
    "SceneCutDetector",
    "TrackedFace",
    "Tracker",
    "build_detector",
    "complete_tracks",
    "face_pose",
    "link_tracks",
    "smooth_transforms",
]
