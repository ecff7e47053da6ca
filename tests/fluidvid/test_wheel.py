"""The wheel holds everything a run needs: packages behind symlinks, presets, models, the manifest."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def names(root: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    copy = tmp_path_factory.mktemp("src") / "tree"
    ignore = shutil.ignore_patterns(".git", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".venv", "tests")
    shutil.copytree(root, copy, symlinks=True, ignore=ignore)
    code = "import setuptools.build_meta as b; b.build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = (copy / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_presets_and_modules_behind_symlinks(names: set[str]) -> None:
    for preset in ("default", "fast", "quality", "live"):
        assert f"fluidvid/configs/{preset}.toml" in names
    assert {
        "fluidvid/py.typed",
        "fluidvid/cli.py",
        "fluidvid/trackers/types.py",
        "fluidvid/engine/__init__.py",
    } <= names
    assert not any(name.startswith(("trackers/", "engine/", "configs/", "tests/")) for name in names)


def test_every_python_file_of_the_tree_is_inside(names: set[str], root: Path) -> None:
    for top in ("trackers", "engine", "configs"):
        for path in (root / top).rglob("*.py"):
            assert f"fluidvid/{path.relative_to(root).as_posix()}" in names


def test_embedded_models_are_inside(names: set[str], root: Path) -> None:
    manifest = json.loads((root / "fluidvid" / "assets" / "manifest.json").read_text())
    assert "fluidvid/assets/manifest.json" in names
    for item in manifest["models"]:
        if item["embedded"]:
            for file in item["files"]:
                assert f"fluidvid/assets/{file['path']}" in names


def test_licences_are_inside(names: set[str]) -> None:
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/THIRD_PARTY.md") for name in names)
