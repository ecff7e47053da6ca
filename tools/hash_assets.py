"""Write sizes and SHA-256 of the embedded files into fluidvid/assets/manifest.json: run after an asset has changed.

Entries with `"embedded": true` name a file (`net.onnx`) or a folder (`prior`); a folder's files are listed anew.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "fluidvid" / "assets"


def described(path: Path) -> dict[str, object]:
    """One file as the manifest lists it."""
    return {
        "path": path.relative_to(ASSETS).as_posix(),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "size": path.stat().st_size,
    }


def main() -> int:
    """Rewrite the manifest; exit 1 if an embedded file is missing."""
    manifest = ASSETS / "manifest.json"
    tree = json.loads(manifest.read_text(encoding="utf-8"))
    missing = []
    for item in tree["models"]:
        if not item["embedded"]:
            continue
        root = ASSETS / Path(item["files"][0]["path"]).parts[0]
        paths = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
        if not all(path.is_file() for path in paths):
            missing.append(item["name"])
            continue
        item["files"] = [described(path) for path in paths]
    manifest.write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if missing:
        sys.stderr.write(f"missing: {', '.join(missing)}\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
