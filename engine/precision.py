"""The precision networks are run in: bfloat16 where the device is faster in it, else their own."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn


def reduced_precision(device: torch.device) -> torch.dtype | None:
    """bfloat16 where this device is faster in it, else None; float32 results are within a grey level of it.

    Of CPUs those with matrix tiles (AMX) are, and AMD's with AVX512-BF16: there an edit takes .65 of the time and a
    search .75. Intel's with such vectors alone take 1.6 and 1.3 (benchmarks/NOTES.md), whatever oneDNN calls supported.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        cpu = torch.cpu.get_capabilities()
        vectors = cpu.get("avx512_bf16", False) and "AMD" in cpu.get("cpu_name", "")
        return torch.bfloat16 if cpu.get("amx_bf16", False) or vectors else None
    return None


def autocast() -> AbstractContextManager[object]:
    """Reduced precision for the trainings, which run on the CPU."""
    reduced = reduced_precision(torch.device("cpu"))
    return nullcontext() if reduced is None else torch.autocast("cpu", reduced)


def keep_reduced(module: nn.Module, reduced: torch.dtype) -> None:
    """Keep the weights of convolutions and products as `torch.autocast` uses them: else it converts them at every call,
    which for a single crop takes as long as the products.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.to(reduced)
