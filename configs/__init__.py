"""Presets as files a user can read and copy."""
