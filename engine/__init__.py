"""The diffusion side: backbone, h-space, identity, losses, optimisation, editing."""
