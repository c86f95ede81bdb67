"""Says which moving tags an image gets: `image_tags.py VERSION <tags of the repository`, one on a line.

The tag 1.2.3 is there already and never moves. 1.2, 1 and latest go to the newest of their kind: a patch of an older
line does not take them back, and a pre-release (1.3.0rc1) gets none of them. Before 1.0 each 0.x may break what the one
before did, so there is no 0.
"""

from __future__ import annotations

import re
import sys

RELEASE = re.compile(r"(?:refs/tags/)?v?(\d+)\.(\d+)\.(\d+)")


def moving_tags(version: str, tags: list[str]) -> list[str]:
    """Return the tags that point at this version from now on, given those of the repository."""
    released = parsed(version)
    if released is None:
        return []
    others = [other for tag in tags if (other := parsed(tag)) is not None]
    major, minor, _ = released
    lines = {f"{major}.{minor}": (major, minor), f"{major}": (major,), "latest": ()}
    return [
        name
        for name, line in lines.items()
        if name != "0" and all(other <= released for other in others if other[: len(line)] == line)
    ]


def parsed(tag: str) -> tuple[int, int, int] | None:
    """Return the numbers of a release; None for what is not one."""
    match = RELEASE.fullmatch(tag.strip())
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


if __name__ == "__main__":
    print("\n".join(moving_tags(sys.argv[1], sys.stdin.read().split())))
