"""The Python API for frames: an iterator in, an iterator out, a bounded look-ahead in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path

from fluidvid.config import Config, as_config
from fluidvid.coverage import Coverage
from fluidvid.errors import ConfigError, detection_errors
from fluidvid.stages import Stages
from fluidvid.trackers.types import Detection
from fluidvid.window import DirectionsAtOnce, Image, Window, check_picture


def anonymize_frames(
    frames: Iterable[Image],
    *,
    config: Config | str | Path | None = None,
    coverage: Coverage | None = None,
) -> Iterator[Image]:
    """Pseudonymise faces in a stream of pictures.

    A picture leaves `config.track.look_ahead` pictures later than it came, so that a track also covers the pictures
    just before its first detection. Mask first: a face is masked until its direction is ready, and the change from
    mask to face is a cross-fade. The direction is searched for in the caller's thread as soon as the track has shown
    enough key pictures; that call takes as long as `edit.iterations` make it.

    Args:
        frames: `(H, W, 3)` uint8 RGB pictures of one size, upright, in order. Not modified; do not modify them
            while they are waiting inside.
        config: a configuration, or a preset's name or TOML file; default: the preset `live`.
        coverage: filled with the account if given.

    Yields:
        As many pictures as came in, in order, `(H, W, 3)` uint8 RGB; those without a face are passed through.

    Raises:
        ConfigError: no such preset, or the configuration asks for what only a whole file can give: `strict`,
            `media.start`, `media.end`.
        DetectionError: faces could not be looked for; nothing more is yielded, waiting pictures are lost.
        ModelError: a model is missing or altered.
        ValueError: a picture is of another shape or type.
    """
    from fluidvid.assembly import frame_stages

    chosen = as_config("live" if config is None else config)
    if chosen.strict or chosen.start is not None or chosen.end is not None:
        raise ConfigError("strict, media.start and media.end are for whole files: leave them out, or use anonymize")
    stages = frame_stages(chosen)
    with closing(stages.memory) if stages.memory is not None else nullcontext():
        yield from process(stages, chosen, frames, coverage if coverage is not None else Coverage())


def process(stages: Stages, config: Config, frames: Iterable[Image], coverage: Coverage) -> Iterator[Image]:
    """`anonymize_frames` over given parts."""
    window = Window(stages, config, None if stages.editor is None else DirectionsAtOnce(stages.editor))
    for index, image in enumerate(frames):
        check_picture(image)
        cut, detections = _inspected(stages, index, image)
        window.push(image, detections, cut=cut)
        if len(window.waiting) > config.track.look_ahead:
            yield window.pop(coverage)[0].rgb
    while window.waiting:
        yield window.pop(coverage)[0].rgb


def _inspected(stages: Stages, index: int, image: Image) -> tuple[bool, list[Detection]]:
    """Whether the picture begins a shot, and its faces."""
    with detection_errors(f"picture {index}"):
        cut = stages.cuts.update(image) if stages.cuts else False
        return cut, stages.detector.detect(image)
