"""Documents as their readers use them: what is typed under a heading."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.forks import ROOT

FENCE = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def block(doc: str, holding: str) -> str:
    """Return the one block of lines for a shell in which a document says something."""
    (found,) = [each for each in FENCE.findall((ROOT / doc).read_text()) if holding in each]
    return str(found)


def blocks_under(heading: str, doc: Path = ROOT / "docs" / "kubernetes.md") -> list[str]:
    """Return the blocks of lines for a shell below a heading of the second level, in order."""
    section = doc.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return FENCE.findall(section)
