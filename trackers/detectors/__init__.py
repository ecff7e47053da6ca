"""Face detectors behind one interface, and the registry that builds them by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fluidvid.trackers.detectors.base import FaceDetector
from fluidvid.trackers.detectors.centerface import CenterFace, QuantisedCenterFace
from fluidvid.trackers.detectors.ensemble import EnsembleDetector
from fluidvid.trackers.detectors.insightface_app import InsightFace
from fluidvid.trackers.detectors.mirrored import MirroredDetector
from fluidvid.trackers.detectors.refined import RefinedDetector
from fluidvid.trackers.detectors.scrfd import Scrfd
from fluidvid.trackers.detectors.tiny_face import TinyFace
from fluidvid.trackers.detectors.yunet import YuNet
from fluidvid.trackers.session import CPU, Provider

DETECTORS = ("centerface", "centerface_int8", "tiny_face", "scrfd", "yunet", "insightface")

__all__ = ["DETECTORS", "EnsembleDetector", "FaceDetector", "MirroredDetector", "RefinedDetector", "build_detector"]


def build_detector(
    name: str,
    path: Path,
    *,
    landmarks: Path | None = None,
    score: float = 0.3,
    long_side: int = 1280,
    providers: Sequence[Provider] = CPU,
    threads: int = 0,
) -> FaceDetector:
    """Build a detector by its name.

    Args:
        name: one of `DETECTORS`.
        path: its ONNX file.
        landmarks: the 68-point network, which `tiny_face` needs.
        score: detections below it are dropped.
        long_side: pictures are scaled down to it.
        providers: onnxruntime's, in order of preference.
        threads: CPU threads of one run; 0: as many as there are cores.

    Raises:
        ValueError: no such detector, or the file is of another kind.
        FileNotFoundError: the file is not there.
        ImportError: `insightface` without its package.
    """
    if name == "tiny_face":
        if landmarks is None:
            raise ValueError("tiny_face needs the 68-point network for its landmarks")
        return TinyFace(
            path, landmarks=landmarks, score=score, long_side=long_side, providers=providers, threads=threads
        )
    kinds: dict[str, Callable[..., FaceDetector]] = {
        "centerface": CenterFace,
        "centerface_int8": QuantisedCenterFace,
        "scrfd": Scrfd,
        "yunet": YuNet,
        "insightface": InsightFace,
    }
    if name not in kinds:
        raise ValueError(f"no detector {name!r}: choose one of {', '.join(DETECTORS)}")
    return kinds[name](path, score=score, long_side=long_side, providers=providers, threads=threads)
