"""The diffusion side: backbone, h-space, identity, losses, optimisation, editing."""

from fluidvid.engine.build import build_editor
from fluidvid.engine.editor import EditedCrop, FluidEditor, Preparation
from fluidvid.engine.search import EditorOptions

__all__ = ["EditedCrop", "EditorOptions", "FluidEditor", "Preparation", "build_editor"]
