r"""Files that are there whole or not at all, whoever is killed and whoever else writes them.

replace_text(Path("runs/acl/results.json"), "{}\n")
"""

import secrets
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Writes a file through a temporary one, so that a kill leaves the old file or the new one.

    Each writer has a temporary file of its own: of two at once, the later one's text stands.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
