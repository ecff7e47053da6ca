"""The real editor in a live run: a direction from the background, edits, and the same pseudonym after a reconnect."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fluidvid.live.conftest import Run, Server, until
from tests.fluidvid.live.seeing import exposed, pictures


@pytest.mark.slow
def test_the_same_pseudonym_after_a_reconnect(
    serve: Callable[..., Server],
    film: Callable[..., subprocess.Popen[bytes]],
    live: Callable[..., Run],
    clip: Path,
    tmp_path: Path,
) -> None:
    server = serve("cam").start()
    film(server.url("cam/publish"), "--rate", "4")
    run = live(
        server.url("cam"),
        str(tmp_path / "out.mkv"),
        mode="fluid",
        edit__iterations=2,
        cache__path=str(tmp_path / "people.cache"),
    )
    until(lambda: run.session.report().edited > 0, 250)
    assert run.session.report().directions["begun"] == 1  # the bank's; a search may have bettered it meanwhile
    until(lambda: run.session.report().directions["found"] == 1, 250)
    assert run.session.report().masked_reasons["not prepared"] > 0
    server.kill()
    until(lambda: run.said("trying again"))
    server.start()
    film(server.url("cam/publish"), "--rate", "4")
    until(lambda: sum("receiving" in line for line in run.lines) == 2)
    until(lambda: run.session.report().tracks == 2)
    edited = run.session.report().edited
    until(lambda: run.session.report().edited > edited + 8, 250)
    run.finish()
    after = run.session.report()
    memory: dict[str, Any] = dict(after.memory)
    assert memory["returned"] == 1, memory
    assert memory["new"] == 1 and len(set(memory["entries"].values())) == 1
    assert after.tracks == 2 and after.raw == 0 and after.reconnects >= 1
    images, _ = pictures(str(tmp_path / "out.mkv"))
    seen, faces = exposed(clip, images, size=(264, 224), edits=True)
    assert after.faces >= faces >= len(images) == after.pictures_out and seen == 0
