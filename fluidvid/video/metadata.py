"""Which tags may identify someone, and which only say how the file was made."""

from __future__ import annotations

from collections.abc import Mapping

# Written by muxers about themselves, or derivable from the streams. All else is dropped by default and listed.
_HARMLESS = frozenset(
    {"major_brand", "minor_version", "compatible_brands", "duration", "language", "vendor_id", "variant_bitrate"}
    | {"bps", "number_of_frames", "number_of_bytes", "_statistics_tags", "_statistics_writing_app", "source_id"}
    | {"id3v2_priv", "metadatacreator", "hasaudio", "hasvideo", "canseektoend", "rotate", "alpha_mode"}
)
_MAKERS = ("Lavf", "Lavc")
_NEUTRAL_HANDLERS = frozenset(
    {"VideoHandler", "SoundHandler", "SubtitleHandler", "DataHandler", "VideoHandle", "SoundHandle"}
)


def identifying(tags: Mapping[str, str]) -> list[str]:
    """Names (never values) of the tags that may identify a person, place, time or device, sorted."""
    return sorted(name for name, value in tags.items() if not _harmless(name.lower(), value))


def _harmless(name: str, value: str) -> bool:
    if name in _HARMLESS or name.split("-")[0] in _HARMLESS or not value.strip():
        return True
    if name == "encoder":
        return value.startswith(_MAKERS)
    return name == "handler_name" and value in _NEUTRAL_HANDLERS
