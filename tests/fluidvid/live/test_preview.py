"""The preview's waiting, without a stream; with one: `test_end_to_end.py`."""

from __future__ import annotations

import threading

import pytest

from fluidvid.live import preview
from fluidvid.live.preview import PreviewSink


@pytest.fixture
def sink() -> PreviewSink:
    made = object.__new__(PreviewSink)
    made._change, made._picture, made._number, made._closed = threading.Condition(), b"one", 1, False
    return made


def test_the_last_picture_comes_again_so_that_a_closed_page_is_noticed(
    sink: PreviewSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "PATIENCE", 0.05)
    assert sink._next(0) == (b"one", 1), "a new one at once"
    assert sink._next(1) == (b"one", 1), "the same one after some patience"


def test_the_end_wakes_everybody(sink: PreviewSink) -> None:
    got: list[bytes | None] = []
    waiting = threading.Thread(target=lambda: got.append(sink._next(1)[0]))
    waiting.start()
    with sink._change:
        sink._closed = True
        sink._change.notify_all()
    waiting.join(2)
    assert got == [None]
