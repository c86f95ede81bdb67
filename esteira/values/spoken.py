"""Read an error's name and message safely: an error's own class runs code for this, which may raise anything.

A `__str__` may fail, a metaclass may refuse the name, or either may raise even SystemExit. Code that stores or logs an
error of a job type's code reads it here, and always gets a text. Pure: importable before Django.
"""

from __future__ import annotations


def name_of(error: BaseException) -> str:
    """Return the name of an exception's class, or a general one."""
    try:
        return str.__str__(type(error).__name__)
    except BaseException:  # a metaclass may raise anything
        return "Exception"


def said(error: BaseException) -> str:
    """Return an exception's own message, or the reason why it cannot be read."""
    try:
        return str.__str__(str(error))  # a subclass of text may raise as well
    except BaseException as worse:  # an exception's own __str__ may raise anything, SystemExit too
        return f"(its message cannot be read: {name_of(worse)})"
