"""Presets as files a user can read and copy: `fluidvid anonymize --config NAME|FILE`."""
