"""Which commit of this project is measured, where it runs in a git checkout."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHANGES = "+changes"
RESULTS = ":(exclude)bench/results"  # the suite itself writes there; nothing that is measured reads it


def commit(root: Path = ROOT) -> str:
    """The short hash of the commit at `root`, with `+changes` if files differ from it or are not in it.

    Empty if `root` is not the top of a checkout, or there is no git.
    """
    # A folder that was unpacked inside somebody else's checkout is none of its commits.
    if _git(root, "rev-parse", "--show-cdup") != "":
        return ""
    head = _git(root, "rev-parse", "--short=7", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", ".", RESULTS)
    return f"{head}{CHANGES if changes else ''}" if head else ""


def _git(root: Path, *words: str) -> str | None:
    """What git says; None if it fails, or is not there."""
    try:
        # Without the optional locks a look at the tree is in nobody's way who commits meanwhile.
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", root, *words], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return None if done.returncode else done.stdout.strip()
