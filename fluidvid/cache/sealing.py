"""Directions as encrypted bytes: safetensors inside AES-256-GCM, bound to the entry they belong to."""

from __future__ import annotations

import json
import secrets

from safetensors.torch import load, save

from fluidvid.engine.cache import Known, Provenance

NONCE = 12


def seal(key: bytes, content: bytes, place: str) -> bytes:
    """Encrypt; `place` (entry and column) is authenticated, so that nothing can be moved elsewhere."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = secrets.token_bytes(NONCE)
    return nonce + AESGCM(key).encrypt(nonce, content, place.encode())


def unseal(key: bytes, sealed: bytes, place: str) -> bytes:
    """The reverse of `seal`.

    Raises:
        ValueError: altered, moved, or of another key.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(sealed[:NONCE], sealed[NONCE:], place.encode())
    except (InvalidTag, ValueError) as error:
        raise ValueError("the entry is damaged or of another key") from error


def to_bytes(known: Known) -> bytes:
    """A direction as a safetensors file in memory."""
    made = known.provenance
    header = {
        "basis": made.basis,
        "steps": made.steps,
        "frames": list(made.frames),
        "figures": dict(made.figures),
        "pseudonym": known.pseudonym,
        "boost": known.boost,
    }
    tensors = {"coordinates": known.coordinates, "noise": known.noise}
    content: bytes = save(
        {name: t.detach().float().cpu().contiguous() for name, t in tensors.items()}, {"fluidvid": json.dumps(header)}
    )
    return content


def from_bytes(content: bytes) -> Known:
    """The reverse of `to_bytes`.

    Raises:
        ValueError: not such a file.
    """
    try:
        tensors = load(content)
        size = int.from_bytes(content[:8], "little")
        header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["fluidvid"])
        row = header["pseudonym"]
        provenance = Provenance(
            str(header["basis"]),
            int(header["steps"]),
            tuple(int(frame) for frame in header["frames"]),
            {str(name): float(value) for name, value in header["figures"].items()},
        )
        boost = float(header.get("boost", 1.0))  # what older versions cached has none
        return Known(tensors["coordinates"], tensors["noise"], None if row is None else int(row), provenance, boost)
    except Exception as error:  # safetensors raises its own kinds for bytes that are no file
        raise ValueError(f"not a cached direction: {error}") from error
