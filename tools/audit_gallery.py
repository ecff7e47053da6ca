"""Embed synthetic faces by recognisers that are not shipped: the audit's gallery for them, kept beside their files.

    python tools/audit_gallery.py FACES RECOGNISERS [--count 512]

FACES: a folder or zip of aligned 128-pixel faces (template `fluidvid.geometry.FFHQ_112`), none of them a real person's.
For every `<name>.onnx` in RECOGNISERS that the audit knows, `<name>.gallery.npy` `(M, D)` float16 is written there.
The shipped recognisers' galleries are in the prior's bank of pseudonyms; these files stay outside the package, because
such recognisers' licences do.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fluidvid.audit.graders import load_panel
from fluidvid.audit.look import SIZE, embed
from fluidvid.engine.build import RECOGNISERS
from fluidvid.engine.training.pictures import read_pictures
from fluidvid.models import ModelStore

BATCH = 16


def pictures(faces: Path, count: int) -> NDArray[np.uint8]:
    """`(M, 128, 128, 3)` uint8 RGB, spread evenly over all of them."""
    found = [picture for _, picture in read_pictures(faces)]
    chosen = [found[i] for i in np.unique(np.linspace(0, len(found) - 1, count).astype(int))]
    if any(picture.shape != (SIZE, SIZE, 3) for picture in chosen):
        raise SystemExit(f"{faces} holds pictures of another size than {SIZE} x {SIZE}: align them first")
    return np.stack(chosen)


def main() -> int:
    """Write one file per recogniser."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("faces", type=Path)
    parser.add_argument("recognisers", type=Path)
    parser.add_argument("--count", type=int, default=512)
    options = parser.parse_args()
    names = [name for name in RECOGNISERS if (options.recognisers / f"{name}.onnx").is_file()]
    if not names:
        known = ", ".join(RECOGNISERS)
        raise SystemExit(f"{options.recognisers} holds no <name>.onnx of {known}: put the recognisers there first")
    panel = load_panel(ModelStore(), options.recognisers, only=names)
    crops = pictures(options.faces, options.count)
    parts = [embed(panel, crops[i : i + BATCH]) for i in range(0, len(crops), BATCH)]
    for name in names:
        table = np.concatenate([part[name] for part in parts])
        np.save(options.recognisers / f"{name}.gallery.npy", table.astype(np.float16))
        sys.stderr.write(f"{name}: {table.shape[0]} people, {table.shape[1]} numbers each\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
