"""Adds pages that are outside of the folder of the documentation: the changelog, and the READMEs of the plugins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the files of the site with these pages; their links are relative to the root or to their folder."""
    root = Path(config.config_file_path).parent
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "changelog.md", content=changelog))
    for path in sorted(root.glob("plugins/*/README.md")):
        text = path.read_text(encoding="utf-8").replace("](../../README.md)", "](../index.md)")
        files.append(File.generated(config, f"plugins/{path.parent.name}.md", content=text))
    return files
