"""fluidvid: consistent pseudonyms for faces in video."""
