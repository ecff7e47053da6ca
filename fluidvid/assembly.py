"""Puts the parts of a run together: models, detectors, tracker, editor, reader and writer."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

from fluidvid.config import Config, TrackConfig
from fluidvid.editing import FaceEditor
from fluidvid.errors import ConfigError, ModelError
from fluidvid.models import ModelStore
from fluidvid.rate import USUAL_RATE
from fluidvid.soon import EditorSoon, alignment
from fluidvid.stages import Stages
from fluidvid.trackers.session import CPU, Provider
from fluidvid.trackers.types import TrackedFace

MAX_WORKERS = 4
"""Pictures that are looked at at once; each of them costs memory."""

QUANTISED = {"centerface": "centerface_int8"}
"""Detectors with an 8-bit form, which pays on a CPU only."""
MODEL_OF = {"yunet": "yunet_n", "scrfd": "scrfd_2.5g_kps"}
"""Detectors whose model has a name of its own in the manifest."""


def make_editor(
    config: Config, models: ModelStore, seed: int, memory: Callable[[str], Any] | None = None
) -> FaceEditor | None:
    """Build the editor the configuration asks for; None in the classic modes. The one seam to the engine.

    Args:
        config: the whole tree; `edit` and `device` matter here.
        models: resolves manifest names to verified paths.
        seed: the run's secret; everything random in the engine comes from it.
        memory: makes the engine's memory of people, from its digest of model and parameters.

    Raises:
        ModelError: the backbone or a network it needs is missing or altered, or the engine cannot be loaded.
    """
    if config.mode != "fluid":
        return None
    try:
        from fluidvid.engine import build_editor
    except ImportError as error:
        raise ModelError(
            f"the engine cannot be loaded ({error}): reinstall fluidvid, or use --mode blur, pixelate or solid"
        ) from error
    edit = config.edit
    editor: FaceEditor = build_editor(
        backbone=backbone_source(edit.backbone, models),
        resolve=models.resolve,
        editor=edit.editor,
        geometry=edit.geometry,
        strength=edit.strength,
        timesteps=edit.timesteps,
        iterations=edit.iterations,
        searches=edit.searches,
        gaze=edit.gaze,
        glasses=edit.glasses,
        inversion_steps=edit.inversion_steps,
        between=edit.between,
        device=config.device,
        seed=seed,
        memory=memory,
    )
    return editor


def backbone_source(name: str, models: ModelStore) -> str | Path:
    """A folder as it is, a hub id (`owner/name`) as it is, and anything else as a name of the manifest.

    Raises:
        ModelError: no such name, or its files are missing or altered.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return name
    known = [entry.name for entry in models.with_role("backbone")]
    if name not in known:
        raise ModelError(f"no backbone {name!r}: there is no such folder here, and the manifest has {', '.join(known)}")
    return models.resolve(name)


def run_seed(config: Config, source: Path | None = None) -> int:
    """The run's secret: fresh from the operating system unless a key file or, for a test, `config.seed` fixes it.

    Raises:
        ConfigError: both are given, or the key file cannot be read.
    """
    named = config.cache.key_file
    if named is None:
        return secrets.randbits(63) if config.seed is None else config.seed
    if config.seed is not None:
        raise ConfigError("--seed and --key-file both fix the pseudonyms: choose one")
    from fluidvid.cache import keys

    return keys.run_seed(keys.read_key_file(Path(named)), source)


def file_stages(source: Path, target: Path, config: Config, *, overwrite: bool) -> Stages:
    """All parts of a run over a file, which must not change until the result gets its name: passes must see the same.

    Raises:
        InputError: the source cannot be read.
        OutputError: the target cannot be written.
    """
    from fluidvid.video import VideoReader, VideoWriter
    from fluidvid.video.source_file import SourceFile

    file = SourceFile(source)

    def open_reader() -> AbstractContextManager[Any]:
        reader: AbstractContextManager[Any] = VideoReader(source, start=config.start, end=config.end)
        file.check()
        return reader

    def open_writer(reader: Any) -> AbstractContextManager[Any]:
        media = config.media
        writer: AbstractContextManager[Any] = VideoWriter(
            target,
            reader,
            codec=media.codec,
            crf=media.crf,
            preset=media.preset,
            overwrite=overwrite,
            keep_metadata=media.keep_metadata,
            start=config.start,
            end=config.end,
            approve=file.check,
        )
        return writer

    # Both judge their arguments when they are made: a wrong ending or an empty cut should not cost a whole first pass.
    with open_reader() as reader:
        open_writer(reader)
        rate = reader.info.average_rate
    return _stages(config, open_reader, open_writer, source, soon=True, rate=rate)


def frame_stages(config: Config, *, workers: int | None = None) -> Stages:
    """All parts of a run over pictures; there is no reader and no writer.

    Args:
        config: the whole tree.
        workers: pictures looked at at once; None: as suits the machine. With 1 none waits for its successors.
    """

    def nothing(*_: Any) -> AbstractContextManager[Any]:
        raise RuntimeError("pictures come from the caller")

    return _stages(config, nothing, nothing, workers=workers)


def _stages(
    config: Config,
    open_reader: Callable[[], AbstractContextManager[Any]],
    open_writer: Callable[[Any], AbstractContextManager[Any]],
    source: Path | None = None,
    workers: int | None = None,
    *,
    soon: bool = False,
    rate: Fraction | None = None,
) -> Stages:
    from fluidvid.embedding import OnnxEmbedder
    from fluidvid.trackers import SceneCutDetector, Tracker, face_pose, smooth_transforms
    from fluidvid.trackers.detectors.near import NearDetector

    models = ModelStore()
    later = _editor_soon(config, models, source) if soon else None
    editor, memory = (later, later) if later is not None else _editor_with_memory(config, models, source)
    with ExitStack() as stack:
        if later is not None:
            stack.callback(later.close)  # unless all goes well
        workers, threads = look_workers(config.device, workers)
        detector = make_detector(config, models, threads=threads)
        track = config.track
        tracker = Tracker(
            high_score=config.detect.score,
            low_score=config.detect.low_score,
            max_missed=track.max_gap,
            rate=float(rate or USUAL_RATE),
        )

        def looked() -> None:
            detector.close()
            if later is not None:
                later.wait()

        # Landmarks serve edits alone: what is masked whatever they say keeps the detector's.
        refined_from = 0.8 * config.edit.min_face if config.mode == "fluid" else math.inf

        stages = Stages(
            open_reader=open_reader,
            open_writer=open_writer,
            detector=detector,
            tracker=tracker,
            cuts=SceneCutDetector(threshold=track.cut_threshold),
            complete=completing(track.at_rate(rate), rate),
            smooth=smooth_transforms,
            pose=face_pose,
            editor=editor,
            embedder=OnnxEmbedder(
                models.resolve("identity_student_3"), execution_providers(config.device), threads=threads
            ),
            link=_linker(later) if track.link and config.mode == "fluid" else None,
            detectors=(f"{detector.name} ({', '.join(detector.providers)})",),
            near=NearDetector(detector, long_side=config.detect.long_side, min_refined=refined_from),
            uncertain=tracker.uncertain,
            workers=workers,
            identify=_identify(editor) if track.link else None,
            memory=memory,
            looked=looked,
            rate=rate,
        )
        stack.pop_all()
    return stages


def _identify(editor: Any) -> Callable[..., Any] | None:
    if isinstance(editor, EditorSoon):  # not asked yet: that would wait for it
        return lambda *seen: editor.identify(*seen)
    return getattr(editor, "identify", None)


def completing(track: TrackConfig, rate: Fraction | None = None) -> Callable[..., Mapping[int, list[TrackedFace]]]:
    """`Stages.complete`: gaps filled and ends extended as the configuration for this rate says."""
    from fluidvid.trackers import complete_tracks

    def complete(faces: list[TrackedFace], frames: int, cuts: Collection[int]) -> Mapping[int, list[TrackedFace]]:
        completed: Mapping[int, list[TrackedFace]] = complete_tracks(
            faces,
            frames=frames,
            look_ahead=track.look_ahead,
            max_gap=track.max_gap,
            cuts=cuts,
            rate=float(rate or USUAL_RATE),
        )
        return completed

    return complete


def _linker(later: EditorSoon | None) -> Any:
    """Tracks of the same person by the editor's identities, with the threshold that was measured for them."""
    from fluidvid.trackers import link_tracks

    def link(*tracks: Any) -> Any:
        if later is not None:
            later.wait()  # two threads must not load the engine at once
        from fluidvid.engine.memory import THRESHOLD

        return link_tracks(*tracks, threshold=THRESHOLD)

    return link


def _editor_with_memory(config: Config, models: ModelStore, source: Path | None) -> tuple[FaceEditor | None, Any]:
    """The editor, and the memory of people it asks; both None in the classic modes."""
    return (None, None) if config.mode != "fluid" else _built(config, models, run_seed(config, source))


def _built(config: Config, models: ModelStore, seed: int) -> tuple[Any, Any]:
    from fluidvid.cache.people import People, open_people

    opened: list[People] = []

    def remember(basis: str) -> Any:
        opened.append(open_people(config.cache, basis))
        return opened[-1].run

    editor = make_editor(config, models, seed, remember)
    return editor, opened[0] if opened else None


def _editor_soon(config: Config, models: ModelStore, source: Path | None) -> Any:
    """`_editor_with_memory` in the background; None where it cannot be: a cache may ask for its passphrase, a GPU's
    libraries are loaded by torch for all, and only a backbone that says so is known to align faces in a certain way.
    """
    if config.mode != "fluid" or config.cache.path is not None:
        return None
    if execution_providers(config.device)[0] != "CPUExecutionProvider":  # its libraries may be those torch brings
        return None
    known = alignment(backbone_source(config.edit.backbone, models))
    if known is None:
        return None
    seed = run_seed(config, source)
    return EditorSoon(lambda: _built(config, models, seed), *known)


def look_workers(device: str, wanted: int | None = None) -> tuple[int, int]:
    """How many threads look at pictures (`wanted`, if given), and how many CPU threads each of them uses.

    Pictures apart scale better than the layers of one network; a GPU has one queue.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if execution_providers(device)[0] != "CPUExecutionProvider":
        return 1, 0
    workers = min(MAX_WORKERS, cores) if wanted is None else wanted
    return workers, max(1, cores // workers)


def make_detector(config: Config, models: ModelStore, *, threads: int = 0) -> Any:
    """The configured detector, with its second opinion if there is one, a look across the edges, and the face mesh.

    Args:
        config: the whole tree; `detect` and `device` matter here.
        models: resolves manifest names to verified paths.
        threads: CPU threads of one run of a network; 0: as many as there are cores.

    Raises:
        ConfigError: no such detector.
        ModelError: its file is missing or of another kind.
    """
    from fluidvid.trackers import DETECTORS, EnsembleDetector, MirroredDetector, RefinedDetector, build_detector

    detect = config.detect
    providers = execution_providers(config.device)

    on_cpu = providers[0] == "CPUExecutionProvider"

    def build(name: str, model: str | None) -> Any:
        if detect.quantised and on_cpu and not model:
            name = QUANTISED.get(name, name)
        if name not in DETECTORS:
            raise ConfigError(f"no detector {name!r}: choose one of {', '.join(DETECTORS)}")
        if name == "insightface" and not model:
            raise ConfigError("the detector insightface needs its file: add --set detect.model=FILE.onnx")
        path = Path(model) if model else models.resolve(MODEL_OF.get(name, name))
        points = models.resolve("landmark68") if name == "tiny_face" else None
        try:
            return build_detector(
                name,
                path,
                landmarks=points,
                score=detect.low_score,
                long_side=detect.long_side,
                providers=providers,
                threads=threads,
            )
        except (ValueError, FileNotFoundError) as error:
            remedy = f"name a file of {name} with detect.model or detect.second_model, or none for its own"
            raise ModelError(f"detector {name}: {error}; {remedy}") from error
        except ImportError as error:
            raise ModelError(f"detector {name}: {error}") from error

    found = build(detect.detector, detect.model)
    if detect.second is not None:
        found = EnsembleDetector(found, build(detect.second, detect.second_model), long_side=detect.long_side)
    trace_score = detect.low_score if detect.low_score < detect.score else 0.0
    found = MirroredDetector(found, long_side=detect.long_side, trace_score=trace_score)
    mesh = models.resolve("facemesh468")
    return RefinedDetector(found, mesh, sure_score=detect.score, providers=providers, threads=threads)


def execution_providers(device: str) -> tuple[Provider, ...]:
    """Providers of onnxruntime for a device, in order of preference; `cuda:1` is the second card."""
    kind, _, card = device.partition(":")
    if kind == "cuda":
        return (("CUDAExecutionProvider", {"device_id": int(card)}) if card else "CUDAExecutionProvider", *CPU)
    if device == "auto":
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            return ("CUDAExecutionProvider", *CPU)
    return CPU
