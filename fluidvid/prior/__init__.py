"""Training, sampling and judging a diffusion prior, and the recogniser that guides it: `fluidvid prior`."""
