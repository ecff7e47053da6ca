"""Open an ONNX file with onnxruntime, and say aloud which execution provider runs it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

Provider = str | tuple[str, dict[str, int]]
"""An execution provider of onnxruntime: its name, or its name and its options."""
CPU: tuple[Provider, ...] = ("CPUExecutionProvider",)
TINY = 32
"""Side of a picture that every detector takes."""


@cache
def share_arena() -> None:
    """Let the sessions that are opened from now on draw on one arena: networks that run in turn need the memory of one.

    For a process of our own: onnxruntime has one such arena for everybody in it.
    """
    import onnxruntime

    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    # No limit; grows by doubling; onnxruntime's own sizes of first and spare pieces.
    arena = onnxruntime.OrtArenaCfg(0, 0, -1, -1)
    onnxruntime.create_and_register_allocator(memory, arena)


def give_back(session: Any) -> None:
    """Return what no network holds of the session's arena to the system, by a run on a tiny picture."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    inputs = {}
    for entry in session.get_inputs():
        batch, *rest = entry.shape
        shape = [batch if isinstance(batch, int) else 1, *(side if isinstance(side, int) else TINY for side in rest)]
        inputs[entry.name] = np.zeros(shape, np.float32)
    try:
        session.run(None, inputs, options)
    except Exception as error:  # noqa: BLE001 - a network of the user's may take no such picture: it keeps its memory
        log.debug("nothing given back: %s", error)


def open_session(path: Path, providers: Sequence[Provider] = CPU, *, threads: int = 0) -> Any:
    """An `onnxruntime.InferenceSession` on the first provider that is really there.

    Args:
        path: the ONNX file.
        providers: onnxruntime's, in order of preference.
        threads: CPU threads of one run; 0: as many as there are cores. With 1, several runs at once scale better.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no ONNX model.
    """
    import onnxruntime

    if not path.is_file():
        raise FileNotFoundError(f"no model file {path}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others need the cores meanwhile
    if share_arena.cache_info().currsize:
        options.add_session_config_entry("session.use_env_allocators", "1")
    here = onnxruntime.get_available_providers()
    names = {entry if isinstance(entry, str) else entry[0]: entry for entry in providers}
    wanted = [entry for name, entry in names.items() if name in here] or list(CPU)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
    except Exception as error:
        raise ValueError(f"{path} is not a model that onnxruntime can load: {error}") from error
    missing = [name for name in names if name not in session.get_providers()]
    if missing:
        log.warning("%s runs on %s: %s not available", path.name, session.get_providers()[0], ", ".join(missing))
    return session


def check_outputs(session: Any, path: Path, kind: str, shapes: Sequence[tuple[int, ...]]) -> None:
    """Make sure that a model is of the kind it is taken for.

    Args:
        session: the open model.
        path: its file, for the message.
        kind: what it should be, for the message.
        shapes: of each output, in order, the fixed sizes behind the batch axis.

    Raises:
        ValueError: number or shapes of the outputs differ.
    """
    found = [tuple(output.shape[1:]) for output in session.get_outputs()]
    alike = len(found) == len(shapes) and all(f[: len(s)] == s for f, s in zip(found, shapes, strict=True))
    if not alike:
        raise ValueError(f"{path.name} is no {kind}: outputs of shape {list(shapes)} are needed, it has {found}")
