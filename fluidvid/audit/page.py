"""The report as one self-contained HTML page: verdict first, then people, figures and what was not measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import numpy as np

from fluidvid import __version__
from fluidvid.audit.graders import WORDS
from fluidvid.audit.measure import chosen_rows
from fluidvid.audit.plots import distributions, movement, strip, timeline
from fluidvid.audit.privacy import Recognition, judged, present, templates
from fluidvid.audit.report import HONEST_WORDS, AuditReport
from fluidvid.audit.statistics import Figure, in_digits, is_share
from fluidvid.audit.utility import eye_openness, mouth_openness
from fluidvid.audit.verdict import State

_STYLE = """
:root{color-scheme:light;font:15px/1.45 system-ui,sans-serif;color:#202124;background:#f4f5f7}
body{max-width:1060px;margin:0 auto;padding:24px}
section,header{background:#fff;border:1px solid #dfe1e5;border-radius:8px;padding:16px 20px;margin:0 0 16px}
h1{margin:0 0 6px;font-size:26px}h2{margin:0 0 10px;font-size:19px}h3{margin:12px 0 6px;font-size:15px}
.passed{border-left:8px solid #188038}.failed{border-left:8px solid #b3261e}.undecided{border-left:8px solid #b26a00}
.warn{background:#fdecea;border:1px solid #b3261e;border-radius:6px;padding:8px 12px}
table{border-collapse:collapse;width:100%;font-size:13px}td,th{padding:4px 8px;border-bottom:1px solid #eceef1;
text-align:left;vertical-align:top}td.n{font-variant-numeric:tabular-nums;white-space:nowrap}.wide{overflow-x:auto}
.mark{font-weight:600;white-space:nowrap}.bad{color:#b3261e}.good{color:#188038}.open{color:#b26a00}
.dim{color:#5f6368;font-size:13px}img{display:block;max-width:100%;image-rendering:auto}svg{max-width:100%;height:auto}
.plots{display:flex;flex-wrap:wrap;gap:8px}figure{margin:0 0 8px}figcaption{font-size:12px;color:#5f6368}
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_TITLES = {State.PASSED: "Passed", State.FAILED: "Failed", State.UNDECIDED: "Not established"}
_MARKS = {True: ("good", "ok"), False: ("bad", "fail"), None: ("open", "open")}


def page(report: AuditReport, *, pictures: bool = True) -> str:
    """The whole page.

    Args:
        report: of the audit.
        pictures: show strips of faces, the source's too; without them the page identifies nobody by itself.
    """
    parts = [
        _head(report, pictures),
        _checks(report),
        _coverage(report),
        *_people(report, pictures),
        _privacy(report),
        _linkage(report),
        _attacks(report),
        _section("What stayed", _figures(report.utility, "the source's own next frame")),
        _section("Over time", _figures(report.time, "the source itself") + _jumps(report)),
        _unmeasured(report),
        _method(),
    ]
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>fluidvid audit: {escape(_TITLES[report.verdict.state])}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _section(title: str, content: str, kind: str = "") -> str:
    return f'<section class="{kind}"><h2>{escape(title)}</h2>\n{content}\n</section>'


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Cells are HTML already."""
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f'<td class="n">{c}</td>' for c in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _head(report: AuditReport, pictures: bool) -> str:
    warning = (
        '<p class="warn">This page shows the source\'s faces: keep it as you keep the source. '
        "<code>--no-pictures</code> leaves them out.</p>"
        if pictures and report.measured.kept
        else ""
    )
    verdict = report.verdict
    return (
        f'<header class="{verdict.state.value}"><h1>{_TITLES[verdict.state]}</h1><p>{escape(verdict.words)}</p>'
        f'<p class="dim">{escape(report.result)} against {escape(report.source)}; fluidvid {__version__}</p>'
        f"<p class=dim>{escape(HONEST_WORDS)}</p>{warning}</header>"
    )


def _checks(report: AuditReport) -> str:
    order = {False: 0, None: 1, True: 2}
    rows = []
    for check in sorted(report.verdict.checks, key=lambda c: order[c.passed]):
        colour, mark = _MARKS[check.passed]
        rows.append((f'<span class="mark {colour}">{mark}</span>', escape(check.name), _wrapped(check.words)))
    return _section("Why", _table(("", "check", "found"), rows))


def _wrapped(text: str) -> str:
    return f'<span style="white-space:normal">{escape(text)}</span>'


def _coverage(report: AuditReport) -> str:
    rows = [(escape(name.replace("_", " ")), escape(str(value))) for name, value in report.coverage().items()]
    words = f"<p>{escape(report.measured.timeline.words())}.</p>"
    return _section("What was looked at", words + _table(("", ""), rows))


def _people(report: AuditReport, pictures: bool) -> list[str]:
    study, measured = report.study, report.measured
    chosen, cards = judged(study, measured), []
    shown = chosen_rows(study)
    for person in report.people():
        mine = present(study) & (study.person == person["person"])
        seen = chosen & mine
        parts = [_facts(person)]
        rows = [r for r in shown.get(person["person"], []) if r in measured.kept]
        if pictures and rows:
            before, after = (strip([measured.kept[r][k] for r in rows]) for k in (0, 1))
            frames = ", ".join(str(int(study.frame[r])) for r in rows)
            parts.append(
                f'<figure><img alt="source" src="{before}"><img alt="result" src="{after}">'
                f"<figcaption>source above, result below; frames {frames}</figcaption></figure>"
            )
        if seen.any() and report.recognitions:
            scores = {r.grader.name: (r.score[seen], r.loose.value) for r in report.recognitions}
            parts.append(
                _figure(
                    timeline(study.frame[seen], scores, ~measured.found[seen]),
                    "dashed: 1 % false accepts; grey: no face is found in the result",
                )
            )
        again = seen & measured.found
        if again.sum() > 1 and study.look is not None and measured.look is not None:
            for label, opening in (("mouth openness", mouth_openness), ("eye openness", eye_openness)):
                curves = [opening(look.landmarks[again]) for look in (study.look, measured.look)]
                parts.append(_figure(movement(study.frame[again], curves[0], curves[1], label), label))
        cards.append(_section(f"Person {person['person']}", "\n".join(parts)))
    return cards


def _figure(drawing: str, words: str) -> str:
    return f"<figure>{drawing}<figcaption>{escape(words)}</figcaption></figure>"


def _facts(person: Mapping[str, Any]) -> str:
    words = (
        f"Tracks {', '.join(map(str, person['tracks']))}; frames {person['first_frame']} to {person['last_frame']}; "
    )
    words += f"{person['faces']} faces, {person['judged']} judged, {person['found_again']} found again in the result"
    untouched = person["untouched_frames"]
    if untouched:
        words += f"; {len(untouched)} untouched, first in frame {untouched[0]}"
    rows = [
        (
            escape(name),
            f"{seen['reidentified_at_1_percent']:.1%}",
            f"{seen['worst_cosine']:.2f}",
            str(seen["worst_frame"]),
        )
        for name, seen in person["recognisers"].items()
    ]
    return f"<p>{escape(words)}.</p>" + _table(("recogniser", "re-identified", "worst cosine", "in frame"), rows)


def _number(figure: Figure, percent: bool) -> str:
    if figure.value is None:
        return f'<span class="dim">not measured: {escape(figure.why)}</span>'
    text = in_digits(figure.value, percent)
    if figure.low is not None and figure.high is not None:
        text += f' <span class="dim">[{in_digits(figure.low, percent)}, {in_digits(figure.high, percent)}]</span>'
    return text


def _figures(figures: Mapping[str, Figure], floor: str) -> str:
    rows = []
    for name, figure in figures.items():
        percent = is_share(name)
        beside = "" if figure.floor is None else in_digits(figure.floor, percent)
        covered = f"{figure.count} of {figure.of}" if figure.of else ""
        rows.append((escape(name.replace("_", " ")), _number(figure, percent), beside, covered))
    return _table(("figure", "value [95 % over tracks]", floor, "coverage"), rows)


def _privacy(report: AuditReport) -> str:
    study = report.study
    chosen, parts = judged(study, report.measured), []
    for r in report.recognitions:
        at = ", ".join(
            f"{t.far:.1%}: {t.value:.3f} ({t.origin})" if t.value is not None else f"{t.far:.1%}: {t.origin}"
            for t in (r.loose, r.strict)
        )
        worst = "; ".join(f"track {t}: {c:.2f} in frame {f}" for t, (f, c) in list(r.worst.items())[:12])
        parts.append(
            f"<h3>{escape(r.grader.name)}</h3><p>{escape(WORDS[r.grader.part])}. Thresholds at false accepts of "
            f"{escape(at)}; {len(r.impostors)} impostor pairs. Worst frames: {escape(worst)}.</p>"
            + _figures(r.figures, "")
            + (_figure(distributions(r, chosen, _natural(report, r)), "how alike") if chosen.any() else "")
        )
    return _section("Who is recognised", "\n".join(parts))


def _natural(report: AuditReport, recognition: Recognition) -> Any:
    """`(K,)` cosines of the source's faces to their own person."""
    study, name = report.study, recognition.grader.name
    people = templates(study, name)
    if study.look is None or not people:
        return np.zeros(0, np.float32)
    rows = np.flatnonzero(judged(study, report.measured))
    return np.array([study.look.embeddings[name][r] @ people[int(study.person[r])] for r in rows], np.float32)


def _linkage(report: AuditReport) -> str:
    parts = [f"<h3>{escape(name)}</h3>" + _figures(figures, "") for name, figures in report.linkage.items() if figures]
    return _section("Linkage", "\n".join(parts) or "<p>Nothing to link.</p>")


def _attacks(report: AuditReport) -> str:
    if not report.attacks:
        return _section("Attacks", "<p>Not measured: no attack was asked for (<code>--attacks all</code>).</p>")
    rows = []
    for a in report.attacks:
        share, before = (None if v is None else f"{v:.1%}" for v in (a.share, a.before))
        at, after, was = ("" if v is None else f"{v:.3f}" for v in (a.threshold, a.cosine, a.cosine_before))
        rows.append(
            (
                escape(a.name),
                escape(a.recogniser),
                before or "",
                share or "not measured",
                str(a.count),
                at,
                was,
                after,
                _wrapped(a.why or a.words),
            )
        )
    head = ("attack", "recogniser", "re-identified before", "after", "faces", "threshold", "cosine before", "after", "")
    return _section("Attacks", _table(head, rows))


def _jumps(report: AuditReport) -> str:
    rows = [
        (escape(name), str(j.track), str(j.frame), f"{j.cosine:.2f}")
        for name, found in report.jumps.items()
        for j in found[:20]
    ]
    if not rows:
        return "<p>No jump: no face stops being the same person from one frame to the next.</p>"
    return "<h3>Jumps (at most 20 per recogniser)</h3>" + _table(
        ("recogniser", "track", "frame", "cosine to the frame before"), rows
    )


def _unmeasured(report: AuditReport) -> str:
    return _section("Not measured", "<ul>" + "".join(f"<li>{escape(t)}</li>" for t in report.unmeasured) + "</ul>")


def _method() -> str:
    return _section(
        "How to read this",
        "<p>A face is <b>re-identified</b> when the result, seen in the source's alignment, in its own, or slightly "
        "blurred (which washes out noise made against a recogniser), is at least as like the person's mean embedding "
        "in the source as the threshold asks. Where no face is found in the result, it must also be more like the "
        "person than 99 % of the gallery are, and than the same crop with the face painted over: a grey square looks "
        "like some people too. Thresholds come from people seen together in this clip and from the gallery, or from "
        "the recogniser's calibration if that is stricter.</p><p>The gallery holds 512 synthetic "
        "people, the same that fluidvid draws pseudonyms from: ranks, true accepts and equal error rates flatter "
        "fluidvid a little, and no check rests on them.</p><p>Recognisers that guided an edit may accuse but cannot "
        "acquit. Intervals are 95 % bootstraps over tracks; one track gives none. Coverage counts faces that the "
        "audit's own detectors found in the source.</p>",
    )
