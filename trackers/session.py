"""Open an ONNX file with onnxruntime, and say aloud which execution provider runs it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

CPU = ("CPUExecutionProvider",)


def open_session(path: Path, providers: Sequence[str] = CPU) -> Any:
    """An `onnxruntime.InferenceSession` on the first provider that is really there.

    Args:
        path: the ONNX file.
        providers: onnxruntime's names in order of preference.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no ONNX model.
    """
    import onnxruntime

    if not path.is_file():
        raise FileNotFoundError(f"no model file {path}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    here = onnxruntime.get_available_providers()
    wanted = [name for name in providers if name in here] or list(CPU)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
    except Exception as error:
        raise ValueError(f"{path} is not a model that onnxruntime can load: {error}") from error
    missing = [name for name in providers if name not in session.get_providers()]
    if missing:
        log.warning("%s runs on %s: %s not available", path.name, session.get_providers()[0], ", ".join(missing))
    return session
