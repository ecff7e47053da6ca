"""Which processors compute in bfloat16: those on which it is faster, not those that merely can."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fluidvid.engine.precision import reduced_precision

TILES = {"cpu_name": "Intel(R) Xeon(R)", "avx512_bf16": True, "amx_bf16": True}
VECTORS = {"cpu_name": "Intel(R) Xeon(R)", "avx512_bf16": True, "amx_bf16": False}
ZEN4 = {"cpu_name": "AMD EPYC", "avx512_bf16": True, "amx_bf16": False}
ZEN3 = {"cpu_name": "AMD EPYC", "avx512_bf16": False, "amx_bf16": False}
ARM = {"architecture": "aarch64"}


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [(TILES, torch.bfloat16), (VECTORS, None), (ZEN4, torch.bfloat16), (ZEN3, None), (ARM, None)],
)
def test_bfloat16_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, cpu: dict[str, Any], expected: torch.dtype | None
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert reduced_precision(torch.device("cpu")) == expected


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, None)])
def test_graphics_cards_that_only_emulate_it_keep_their_own(
    monkeypatch: pytest.MonkeyPatch, native: bool, expected: torch.dtype | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert reduced_precision(torch.device("cuda")) == expected


def test_other_devices_keep_their_own() -> None:
    assert reduced_precision(torch.device("meta")) is None
