"""Folders that pytest makes are for their owner alone; programs of other users have to get into some."""

from pathlib import Path


def let_others_in(folder: Path) -> None:
    """Let every user into a folder, through each above it."""
    for each in (folder, *folder.parents):
        if not each.stat().st_mode & 0o001:
            each.chmod(0o755)
