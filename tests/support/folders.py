"""What lies in a folder."""

from pathlib import Path


def everything(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too, and empty folders."""
    return {
        str(path.relative_to(folder)): b"<folder>" if path.is_dir() else path.read_bytes() for path in folder.rglob("*")
    }
