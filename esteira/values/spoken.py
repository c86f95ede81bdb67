"""What an error says, for whoever must note it: an error's own class runs when it is asked, and may raise anything.

A `__str__` that fails, a name that a metaclass refuses, even SystemExit: whoever stores or logs an error that code of
a job type's raised asks it here, and always gets a text. Pure: importable before Django.
"""

from __future__ import annotations


def name_of(error: BaseException) -> str:
    """Return the name of an exception's class, if it has one."""
    try:
        return str.__str__(type(error).__name__)
    except BaseException:  # a metaclass may raise anything
        return "Exception"


def said(error: BaseException) -> str:
    """Return an exception's own words, if it can be made to speak."""
    try:
        return str.__str__(str(error))  # a subclass of text may raise as well
    except BaseException as worse:  # an exception's own __str__ may raise anything, SystemExit too
        return f"(its message cannot be read: {name_of(worse)})"
