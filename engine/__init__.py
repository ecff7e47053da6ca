"""The diffusion side: backbone, h-space, identity, losses, optimisation, editing."""

from fluidvid.engine.build import build_editor
from fluidvid.engine.editor import EditedCrop, EditorOptions, FluidEditor, Preparation

__all__ = ["EditedCrop", "EditorOptions", "FluidEditor", "Preparation", "build_editor"]
