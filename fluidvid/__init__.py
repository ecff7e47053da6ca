"""fluidvid: consistent pseudonyms for faces in video.

The public functions are loaded on first use, so that `import fluidvid` is quick.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fluidvid.api import anonymize
    from fluidvid.config import Config
    from fluidvid.frames import anonymize_frames
    from fluidvid.live.command import stream
    from fluidvid.report import RunReport

# Read once, when torch loads its OpenMP: threads that wait for each other spin for a moment only, then sleep. With the
# default, runs that share a machine starve each other; alone this costs nothing (benchmarks/NOTES.md).
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
# SVT-AV1 would list its settings on stderr at every opening: errors are enough.
os.environ.setdefault("SVT_LOG", "1")

# Nothing leaves the machine: onnxruntime's official builds call home otherwise (their Privacy.md), and keep a device id
# in the home folder; diffusers tells the hub who asks.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
__all__ = ["Config", "RunReport", "__version__", "anonymize", "anonymize_frames", "stream"]

_HOMES = {
    "anonymize": "fluidvid.api",
    "anonymize_frames": "fluidvid.frames",
    "Config": "fluidvid.config",
    "RunReport": "fluidvid.report",
    "stream": "fluidvid.live.command",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fluidvid' has no attribute {name!r}")
