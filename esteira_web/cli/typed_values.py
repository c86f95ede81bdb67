"""`k=text`, `k:=json`, `--file k=path`: turn command line arguments into the parameters of a job type.

All mistakes are found before anything is uploaded or stored, and are shown together.
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from esteira.errors import InvalidParameters, Mistake
from esteira.job_types.checking import check
from esteira.job_types.registry import JobType
from esteira.values import json_text
from esteira_web.cli import hints
from esteira_web.cli.errors import Usage
from esteira_web.read.parameters import Parameter, parameters

#: The placeholder for the id of a file. Files are uploaded only after everything else was checked.
NOT_YET = str(UUID(int=0))


@dataclass(frozen=True, kw_only=True)
class Word:
    """One command line argument for a parameter."""

    name: str
    how: str  # text, json or file
    value: str


def words(plain: Sequence[str], files: Sequence[str]) -> list[Word]:
    """Parse the arguments; raises Usage for an argument without a name or without `=`."""
    return [_word(word) for word in plain] + [_file_word(word) for word in files]


def _word(word: str) -> Word:
    name, sign, value = word.partition("=")
    if not sign or not name.rstrip(":"):
        raise Usage("usage.parameter", word=word)
    if name.endswith(":"):
        return Word(name=name[:-1], how="json", value=value)
    return Word(name=name, how="text", value=value)


def _file_word(word: str) -> Word:
    name, sign, value = word.partition("=")
    if not sign or not name or not value:
        raise Usage("usage.file", word=word)
    return Word(name=name, how="file", value=value)


Upload = Callable[[Path, str], str]


def read(job_type: JobType, given: Sequence[Word], upload: Upload) -> dict[str, Any]:
    """Return the parameters, with files uploaded by `upload(path, content_type)`; raises InvalidParameters."""
    refuse(job_type, given)
    return _Reading(job_type).values(given, upload)


def refuse(job_type: JobType, given: Sequence[Word]) -> None:
    """Raise InvalidParameters with all mistakes, if there are any; nothing is uploaded."""
    reading = _Reading(job_type)
    trial = reading.values(given, lambda path, _: NOT_YET)
    mistakes = reading.mistakes + _refused(job_type, trial, known=reading.wrong)
    if mistakes:
        raise InvalidParameters([reading.with_help(m, given) for m in mistakes])


def _refused(job_type: JobType, trial: dict[str, Any], *, known: set[str]) -> list[Mistake]:
    try:
        check(job_type.model, trial)
    except InvalidParameters as error:
        return [one for one in error.mistakes if _top(one) not in known]
    return []


def _top(mistake: Mistake) -> str:
    return str(mistake.at[1]) if len(mistake.at) > 1 else ""


class _Reading:
    """One pass over the arguments, which collects mistakes."""

    def __init__(self, job_type: JobType) -> None:
        self.job_type = job_type
        self.known = parameters(job_type)
        self.mistakes: list[Mistake] = []
        self.wrong: set[str] = set()

    def values(self, given: Sequence[Word], upload: Upload) -> dict[str, Any]:
        by_name: dict[str, list[Word]] = {}
        for word in given:
            by_name.setdefault(word.name, []).append(word)
        return {name: self._value(name, some, upload) for name, some in by_name.items()}

    def _value(self, name: str, some: list[Word], upload: Upload) -> Any:
        parameter = self.known.get(name) or Parameter(name, {}, {}, required=False)
        if len(some) == 1 and some[0].how != "file":
            return self._one(parameter, some[0], upload)
        items = parameter.items
        if items is None and len(some) == 1:
            return self._one(parameter, some[0], upload)
        if items is None:
            return self._mistake("given-several-times", name, count=len(some))
        return [self._one(items, word, upload) for word in some]

    def _one(self, parameter: Parameter, word: Word, upload: Upload) -> Any:
        if word.how == "file":
            return self._upload(parameter, Path(word.value).expanduser(), upload)
        try:
            if word.how == "json" or parameter.is_json(word.value):
                return self._json(word)
            return word.value if self._splits(parameter, word.value) else parameter.read(word.value)
        except ValueError as error:
            return self._mistake("not-json-text", word.name, reason=str(error))

    def _json(self, word: Word) -> Any:
        document, twice = json_text.read(word.value)
        for at in twice:
            self._mistake(json_text.TWICE, word.name, *at)
        return document

    def _splits(self, parameter: Parameter, text: str) -> bool:
        """Return whether the job type itself splits a text into a list, such as addresses with commas between them."""
        if parameter.items is None or text.lstrip().startswith("["):
            return False
        field = self.job_type.model.model_fields[parameter.name]
        if not field.metadata:
            return False
        try:
            whole: Any = Annotated[field.annotation, *field.metadata]
            TypeAdapter(whole).validate_python(text)
        except ValidationError:
            return False
        return True

    def _upload(self, parameter: Parameter, path: Path, upload: Upload) -> Any:
        if parameter.schema and not parameter.takes_file:
            return self._mistake("takes-no-file", parameter.name, name=parameter.name)
        if not path.is_file():
            return self._no_such_file(parameter.name, path)
        if not os.access(path, os.R_OK):
            return self._mistake("file-not-readable", parameter.name, path=path, user=os.getuid())
        return upload(path, mimetypes.guess_type(path.name)[0] or "application/octet-stream")

    def _no_such_file(self, name: str, path: Path) -> None:
        """Note the mistake, with the command that copies the file into the container, if this runs in one."""
        if line := hints.brought(path):
            inside = hints.inside(path)
            self._mistake("no-such-file.in-container", name, path=path, line=line, name=name, inside=inside)
        else:
            self._mistake("no-such-file", name, path=path)

    def _mistake(self, code: str, top: str, /, *below: int | str, **values: Any) -> None:
        self.mistakes.append(Mistake(code=code, at=("params", top, *below), values=values))
        self.wrong.add(top)

    def with_help(self, mistake: Mistake, given: Sequence[Word]) -> Mistake:
        """Add a hint that only the command line can give: a similar name, or `--file` for a path without it."""
        name = _top(mistake)
        if mistake.code == "unknown-parameter" and (near := get_close_matches(name, self.known, 1)):
            return replace(mistake, code="unknown-parameter.near", values={"near": near[0]})
        typed = next((w for w in given if w.name == name and w.how == "text"), None)
        if typed and name in self.known and self.known[name].takes_file:
            return replace(mistake, code="takes-a-file", values={"name": name, "given": typed.value})
        return mistake
