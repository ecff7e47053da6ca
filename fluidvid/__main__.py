"""`python -m fluidvid`."""

from fluidvid.cli import main

main()
