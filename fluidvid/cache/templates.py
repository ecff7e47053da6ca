"""Protected templates: signs of a keyed random projection of an identity.

`sign(R e)` with R of random signs that only the key gives. Two templates under one key agree in a share
`1 - angle / pi` of their bits (Goemans and Williamson 1995; Charikar 2002), so cosines survive; templates under
different keys agree by chance. Revocable: another key, other templates, and the old ones match nothing.

With the key AND the template an identity can be approximated (one-bit compressed sensing): templates are therefore
encrypted as well, and the key must be guarded like the pictures themselves.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

BITS = 2048
"""At a cosine of .5 the estimate is within .03 (one standard deviation)."""


class Projection:
    """The keyed projection.

    Args:
        key: 32 secret bytes.
        dimension: D of the identities.
        bits: B, a multiple of 8.
    """

    def __init__(self, key: bytes, dimension: int, bits: int = BITS) -> None:
        if bits % 8:
            raise ValueError(f"bits must be a multiple of 8, got {bits}")
        # SHAKE-256 and not numpy's generators, whose streams may change between versions of numpy.
        stream = hashlib.shake_256(key + f"|{dimension}|{bits}".encode()).digest(-(-dimension * bits // 8))
        signs = np.unpackbits(np.frombuffer(stream, np.uint8), count=dimension * bits)
        self._matrix: NDArray[np.float32] = (signs.astype(np.float32) * 2 - 1).reshape(bits, dimension)
        self.bits = bits

    def protect(self, identity: NDArray[np.float32]) -> bytes:
        """The template of a `(D,)` unit vector: B / 8 bytes."""
        return np.packbits(self._matrix @ identity >= 0).tobytes()

    def cosines(self, template: bytes, others: list[bytes]) -> NDArray[np.float64]:
        """Estimated cosines `(N,)` of the identities behind templates of the same key."""
        if not others:
            return np.zeros(0)
        table = np.frombuffer(b"".join(others), np.uint8).reshape(len(others), -1)
        differing = np.bitwise_count(table ^ np.frombuffer(template, np.uint8)).sum(1, dtype=np.int64)
        return np.asarray(np.cos(np.pi * differing / self.bits), dtype=np.float64)
