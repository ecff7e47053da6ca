"""`fluidvid doctor`: is everything that a run needs there, and is it what was asked for?"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fluidvid.errors import FluidvidError, ModelError
from fluidvid.models import ModelStore

Level = Literal["ok", "note", "broken"]
ENCODERS = (
    "libx264",
    "libx265",
    "libsvtav1",
    "libvpx-vp9",
    "mpeg4",
    "mpeg2video",
    "h264_nvenc",
    "hevc_nvenc",
    "h264_qsv",
    "h264_vaapi",
    "h264_videotoolbox",
)
REQUIRED_ENCODERS = ("libx264",)
PACKAGES = {
    "cryptography": "cryptography.hazmat.primitives.ciphers.aead",
    "diffusers": "diffusers.models.unets.unet_2d",
    "filterpy": "filterpy.kalman",
    "numpy": "numpy",
    "onnx": "onnx",
    "safetensors": "safetensors.torch",
    "scipy": "scipy.optimize",
}
"""What else a run needs, and the command line does not: a package, and a module of it that is asked for."""


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it stands, in words with the remedy if it is broken."""

    name: str
    level: Level
    text: str


def examine() -> list[Finding]:
    """Look at everything; never raises for what it looks at."""
    checks: tuple[Callable[[], list[Finding]], ...] = (
        _python,
        _torch,
        _onnxruntime,
        _av,
        _encoders,
        _opencv,
        _packages,
        lambda: _models(ModelStore()),
    )
    found: list[Finding] = []
    for check in checks:
        try:
            found += check()
        except Exception as error:  # noqa: BLE001 - a broken installation fails in ways nobody listed
            name = getattr(check, "__name__", "check").strip("_<>").replace("lambda", "models")
            words = f"{type(error).__name__}: {error}; reinstall fluidvid"
            found.append(Finding(name, "broken", str(error) if isinstance(error, FluidvidError) else words))
    return found


def to_dict(findings: list[Finding]) -> dict[str, Any]:
    """Plain types for `--json`: `ok` is False if anything is broken."""
    return {"ok": not broken(findings), "findings": [asdict(f) for f in findings]}


def broken(findings: list[Finding]) -> bool:
    """True if anything a run needs does not work."""
    return any(f.level == "broken" for f in findings)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python() -> list[Finding]:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    good = sys.version_info >= (3, 11)
    return [Finding("python", "ok" if good else "broken", text + ("" if good else ": 3.11 or newer is needed"))]


def _torch() -> list[Finding]:
    import torch

    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [Finding("torch", "ok", f"{torch.__version__}, devices: {', '.join(devices)}")]


def _onnxruntime() -> list[Finding]:
    cpu, gpu = _version("onnxruntime"), _version("onnxruntime-gpu")
    if importlib.util.find_spec("onnxruntime") is None:
        return [Finding("onnxruntime", "broken", "not installed: pip install 'fluidvid[cpu]' or 'fluidvid[gpu]'")]
    import onnxruntime

    got = onnxruntime.get_available_providers()
    asked = "CUDAExecutionProvider" if gpu else "CPUExecutionProvider"
    installed = " and ".join(f"{n} {v}" for n, v in (("onnxruntime", cpu), ("onnxruntime-gpu", gpu)) if v)
    text = f"{installed or onnxruntime.__version__}; asked for {asked}, got {', '.join(got)}"
    if cpu and gpu:
        return [
            Finding(
                "onnxruntime",
                "broken",
                text + ": both builds are installed and the CPU one shadows the other; "
                "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'fluidvid[gpu]'",
            )
        ]
    if gpu and asked not in got:
        return [
            Finding(
                "onnxruntime",
                "broken",
                text + ": the GPU build sees no usable CUDA; check driver and CUDA "
                "libraries, or install 'fluidvid[cpu]'",
            )
        ]
    if "CPUExecutionProvider" not in got:
        return [Finding("onnxruntime", "broken", text + ": no CPU provider; reinstall it")]
    return [Finding("onnxruntime", "ok", text)]


def _av() -> list[Finding]:
    import av

    libraries = getattr(av, "library_versions", {})
    codec = ".".join(map(str, libraries.get("libavcodec", ())))
    return [Finding("av", "ok", f"PyAV {av.__version__}, libavcodec {codec or 'unknown'}")]


def encoder_works(name: str) -> tuple[bool, str]:
    """Encode a few real frames in memory: (True, "") or (False, why not)."""
    import io

    import av
    import numpy as np

    try:
        with av.open(io.BytesIO(), mode="w", format="matroska") as container:
            stream: Any = container.add_stream(name, rate=25)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            size = 0
            for _ in range(3):
                picture = av.VideoFrame.from_ndarray(np.full((240, 320, 3), 90, np.uint8), format="rgb24")
                size += sum(packet.size for packet in stream.encode(picture))
            size += sum(packet.size for packet in stream.encode(None))
    except Exception as error:  # noqa: BLE001 - hardware encoders fail in every way there is
        return False, f"{type(error).__name__}: {error}"
    return size > 0, "" if size > 0 else "no output"


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """x265 and SVT-AV1 write their banners to file descriptor 2, past every log setting."""
    sys.stderr.flush()
    saved = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


def _encoders() -> list[Finding]:
    with _silent_libraries():
        states = {name: encoder_works(name)[0] for name in ENCODERS}
    missing = [name for name in REQUIRED_ENCODERS if not states[name]]
    text = "test encode passed: " + (", ".join(n for n, good in states.items() if good) or "none")
    if missing:
        return [Finding("encoders", "broken", f"{text}; needed: {', '.join(missing)}; reinstall av")]
    return [Finding("encoders", "ok", text)]


def _opencv() -> list[Finding]:
    import cv2

    both = [p for p in ("opencv-python", "opencv-python-headless", "opencv-contrib-python") if _version(p)]
    text = f"{cv2.__version__} ({', '.join(both)})"
    if len(both) > 1:
        return [Finding("opencv", "note", text + ": more than one build installed; they overwrite each other's files")]
    return [Finding("opencv", "ok", text)]


def _packages() -> list[Finding]:
    failures = []
    for name, module in PACKAGES.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - as in `examine`, and the others are looked at, too
            failures.append(f"{name} ({type(error).__name__}: {error})")
    if failures:
        return [Finding("packages", "broken", f"{', '.join(failures)}; reinstall fluidvid")]
    return [Finding("packages", "ok", ", ".join(f"{name} {_version(name)}" for name in PACKAGES))]


def _models(store: ModelStore) -> list[Finding]:
    found = []
    for entry in store.entries:
        name = f"model {entry.name}"
        try:
            status = store.status(entry)
        except ModelError as error:  # a file that this user may not read; it names the remedy
            found.append(Finding(name, "broken", str(error)))
            continue
        if status.state == "altered" or (status.state == "absent" and entry.embedded):
            remedy = "reinstall fluidvid" if entry.embedded else f"run: fluidvid models pull {entry.name} --force"
            found.append(Finding(name, "broken", f"{status.detail}: {remedy}"))
        elif status.state != "absent":
            note = "" if entry.commercial_use else "; NON-COMMERCIAL licence"
            found.append(
                Finding(name, "ok" if entry.commercial_use else "note", f"{status.state}, {entry.licence}{note}")
            )
    return found
