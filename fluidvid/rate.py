"""The frame rate that figures in frames are meant for: a leaf that configuration and trackers share."""

from __future__ import annotations

USUAL_RATE = 25
"""Frames per second."""
