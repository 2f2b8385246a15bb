"""The long description: the README, with links that lead somewhere from outside the repository."""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

PAGES = "https://github.com/landscape-jax/landscape/blob/main/"
FILES = "https://raw.githubusercontent.com/landscape-jax/landscape/main/"


class Readme(MetadataHookInterface):
    """Found by hatchling."""

    def update(self, metadata: dict) -> None:
        """Set the readme."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = re.sub(r"(!\[[^\]]*\]\()(?!https?:)", rf"\1{FILES}", text)
        text = re.sub(r"(\]\()(?!https?:)", rf"\1{PAGES}", text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
