"""An editor that is being built while the first pictures are looked at already: its libraries take seconds to load."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluidvid.editing import FaceEditor
from fluidvid.errors import FluidvidError, ModelError
from fluidvid.stages import Memory


def alignment(backbone: str | Path) -> tuple[int, NDArray[np.float64]] | None:
    """Crop size and `(5, 2)` template of a backbone folder if its `fluidvid.json` says both, else None."""
    try:
        card = json.loads((Path(backbone) / "fluidvid.json").read_text(encoding="utf-8"))
        size, template = int(card["crop_size"]), np.array(card["template"]["points"], np.float64)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # loading the backbone says what is wrong with it
    return (size, template) if size > 0 and template.shape == (5, 2) and np.isfinite(template).all() else None


def _built(build: Callable[[], tuple[FaceEditor, Memory | None]]) -> tuple[FaceEditor, Memory | None]:
    collecting = gc.isenabled()
    gc.disable()  # nothing of a library that is being loaded is garbage: looking for it takes a sixth of the time
    try:
        return build()
    except FluidvidError:
        raise
    except Exception as error:  # it comes up in the middle of other work, which must not be blamed
        raise ModelError(f"the editor cannot be built ({type(error).__name__}: {error})") from error
    finally:
        if collecting:
            gc.enable()


class EditorSoon:
    """A `FaceEditor` and its `Memory`, built in a thread of their own.

    Where faces will be aligned to is known at once; whoever asks for anything else waits.

    Args:
        build: makes them; an editor may have no memory.
        crop_size: of the editor to come, pixels.
        template: of the editor to come, `(5, 2)` in fractions of the crop's side.
    """

    def __init__(
        self, build: Callable[[], tuple[FaceEditor, Memory | None]], crop_size: int, template: NDArray[np.float64]
    ) -> None:
        self._crop_size, self.template = crop_size, template
        pool = ThreadPoolExecutor(1, thread_name_prefix="build-editor")
        self._built = pool.submit(_built, build)
        pool.shutdown(wait=False)

    @property
    def crop_size(self) -> int:
        """See `FaceEditor`; raises what building the editor raised, as soon as that is known."""
        if self._built.done():
            self._built.result()
        return self._crop_size

    def wait(self) -> None:
        """Return when the editor is there, or raise the FluidvidError that there will be none."""
        self._built.result()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._built.result()[0], name)

    def account(self) -> Mapping[str, Any]:
        """See `Memory`."""
        memory = self._built.result()[1]
        return {} if memory is None else memory.account()

    def warnings(self) -> Sequence[str]:
        """See `Memory`."""
        memory = self._built.result()[1]
        return () if memory is None else memory.warnings()

    def close(self) -> None:
        """See `Memory`; waits for the editor, so that nothing goes on behind the caller's back."""
        memory = self._built.result()[1] if self._built.exception() is None else None
        if memory is not None:
            memory.close()
