"""Hatchling build hook: for editable installs, link `.editable/fedfer/X` to `X/` for each package directory.

A wheel maps the top-level directories through `sources`; an editable install has no such mapping,
so a plain path entry (`.editable`) with links stands in for it. pytest, mypy and pyright follow it.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class EditableLinks(BuildHookInterface[Any]):
    """Makes the links; does nothing for a standard wheel or an sdist."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable":
            return
        root = Path(self.root)
        namespace = root / ".editable" / "fedfer"
        namespace.mkdir(parents=True, exist_ok=True)
        for name in self.build_config.target_config["packages"]:
            link = namespace / name
            if not link.is_symlink():
                link.symlink_to(Path("..", "..", name), target_is_directory=True)
