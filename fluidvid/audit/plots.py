"""Plots as inline SVG, and strips of faces as inline PNG: nothing is fetched, nothing runs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from fluidvid.audit.look import Crops, Floats
from fluidvid.audit.privacy import Recognition

SOURCE, RESULT, OTHERS, BAR = "#b3261e", "#1f6feb", "#8a8f98", "#202124"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "fluidvid",
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
MOST_POINTS = 2000


def svg(canvas: Canvas) -> str:
    """`<svg>...</svg>`, the same for the same plot."""
    stream = io.BytesIO()
    drawing: Any = FigureCanvasSVG(canvas)
    drawing.print_svg(stream, metadata={"Date": None, "Creator": None})
    text = stream.getvalue().decode("utf-8")
    return text[text.index("<svg") :]


def distributions(recognition: Recognition, chosen: NDArray[np.bool_], natural: Floats) -> str:
    """Cosines of impostors, of the result, and of the source to its own person, with both thresholds."""
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(4.6, 2.1), layout="constrained")
        axes = canvas.add_subplot()
        bins = np.linspace(-0.5, 1, 76)
        kinds: Sequence[tuple[Floats, str, str]] = (
            (recognition.impostors, OTHERS, "other people"),
            (natural, SOURCE, "source, own person"),
            (recognition.score[chosen], RESULT, "result, own person"),
        )
        for values, colour, label in kinds:
            good = values[np.isfinite(values)]
            if len(good):
                axes.hist(
                    good,
                    bins=bins.tolist(),
                    weights=np.full(len(good), 1 / len(good)),
                    color=colour,
                    alpha=0.55,
                    label=label,
                )
        for at, dash in ((recognition.loose, "--"), (recognition.strict, ":")):
            if at.value is not None:
                axes.axvline(at.value, color=BAR, linestyle=dash, linewidth=1, label=f"{at.far:.1%} false accepts")
        axes.set_xlabel("cosine")
        axes.set_ylabel("share")
        axes.legend(frameon=False, fontsize=7, loc="best")  # said, or Matplotlib warns where finding it takes long
        return svg(canvas)


def timeline(
    frames: NDArray[np.int64], scores: Mapping[str, tuple[Floats, float | None]], lost: NDArray[np.bool_]
) -> str:
    """Cosine to the person by frame, per recogniser with its threshold; frames where no face is found are grey."""
    step = max(1, len(frames) // MOST_POINTS)
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(7.2, 1.9), layout="constrained")
        axes = canvas.add_subplot()
        for colour, (name, (values, at)) in zip(("C0", "C1", "C2", "C3", "C4", "C5"), scores.items(), strict=False):
            axes.plot(frames[::step], values[::step], color=colour, linewidth=1, marker=".", markersize=2, label=name)
            if at is not None:
                axes.axhline(at, color=colour, linestyle="--", linewidth=0.7)
        for frame in frames[lost][::step]:
            axes.axvspan(frame - 0.5, frame + 0.5, color=OTHERS, alpha=0.25, linewidth=0)
        axes.set_xlabel("frame")
        axes.set_ylabel("cosine to the person")
        axes.set_ylim(-0.4, 1.02)
        axes.legend(frameon=False, fontsize=7, ncols=3, loc="upper right")
        return svg(canvas)


def movement(frames: NDArray[np.int64], source: Floats, result: Floats, label: str) -> str:
    """One attribute of source and result by frame."""
    step = max(1, len(frames) // MOST_POINTS)
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(7.2, 1.4), layout="constrained")
        axes = canvas.add_subplot()
        axes.plot(frames[::step], source[::step], color=SOURCE, linewidth=1, label="source")
        axes.plot(frames[::step], result[::step], color=RESULT, linewidth=1, label="result")
        axes.set_xlabel("frame")
        axes.set_ylabel(label)
        axes.legend(frameon=False, fontsize=7, ncols=2, loc="upper right")
        return svg(canvas)


def strip(crops: Sequence[Crops], side: int = 96) -> str:
    """`data:` address of a PNG with crops `(S, S, 3)` uint8 RGB side by side."""
    row = np.hstack([cv2.resize(c, (side, side), interpolation=cv2.INTER_AREA) for c in crops])
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(row[:, :, ::-1]))
    assert done, "a PNG can always be encoded"
    data: Any = encoded
    return "data:image/png;base64," + base64.b64encode(bytes(data)).decode("ascii")
