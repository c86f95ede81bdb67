"""The documents use plain words: patterns of phrases that are hard for a reader whose third language is English."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.repo.test_docs import CODE
from tests.repo.tree import ROOT, files, text
from tests.support.documents import FENCE

README = Path("README.md")
PAGES = [
    path
    for path in files()
    if path.suffix == ".md"
    and (path.parts[0] == "docs" or path.name in ("README.md", "SECURITY.md", "CONTRIBUTING.md"))
]
#: Patterns, and why a page has another word there.
NOT_PLAIN = {
    r"says?|said|tells?|told": "a program, a page or a setting shows, prints, names, lists or describes",
    r"lives?|breathes?": "a process runs, a file is somewhere",
    r"wants?": "a program needs",
    r"stands?": "a word is somewhere; an abbreviation means something",
    r"ours": "name the thing: of Esteira, of the stack, in `k8s/`",
    r"whoever|nobody|whatever": "give the sentence a subject that one can see: a user, a process, no worker",
    r"feeds?|fed|feeding": "hints are published",
    r"giv(?:e|es|en|ing) (?:\w+ ){0,4}back": "jobs are handed back",
    r"roll-(?:back|out)s?": "the terms are rollback and rollout",
    r"(?:is|are|was|were|be) away": "a server is unavailable",
    r"in the place of": "instead of",
    r"(?:is|are|was|were) blamed": "something counts, or does not count, against a job",
}
SENTENCE_OF_WHAT = re.compile(
    r"(?:^|(?<=[.;:] ))(?:What|Whoever|Who|Nobody) [^.?\n]*(?:[.\n]|$)", re.MULTILINE
)


def prose(page: Path) -> str:
    """Return a page without blocks, inline code, headings and addresses of links."""
    paragraphs = re.sub(r"^#.*$", "", FENCE.sub("", text(page)), flags=re.MULTILINE)
    flowing = re.sub(r"(?<=[^\n|])\n(?=[^\n|])", " ", paragraphs)
    return re.sub(r"\]\([^)]*\)", "]", CODE.sub("`…`", flowing))


def test_the_pages_are_looked_at() -> None:
    assert {README, Path("docs/architecture.md"), Path("docs/adr/README.md")} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_words_are_plain(page: Path) -> None:
    lines = prose(page).splitlines()

    found = {
        (match[0], instead): line
        for pattern, instead in NOT_PLAIN.items()
        for line in lines
        if (match := re.search(rf"(?<![\w-])(?:{pattern})(?![\w-])", line, re.IGNORECASE))
    }

    assert not found


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_no_sentence_has_a_question_word_for_its_subject(page: Path) -> None:
    """Such a sentence names its subject last or never: write it down first."""
    assert not SENTENCE_OF_WHAT.findall(prose(page))


def test_readme_is_read_in_one_go() -> None:
    assert len(text(README).splitlines()) <= 200


def test_pictures_are_there_and_small() -> None:
    pictures = [
        page.parent / name
        for page in PAGES
        for name in re.findall(r"!\[[^\]]+\]\(([^)\s]+)\)", text(page))
        if not re.match(r"[a-z]+:", name)
    ]

    assert len([one for one in pictures if one.parent == Path("docs/images")]) == 1, "README has one"
    assert set(pictures) <= set(files())
    assert all((ROOT / one).stat().st_size < 200_000 for one in pictures)
