"""Faces in pictures and time: detect, align, track, link."""
