"""The models of this app, so that Django finds them; each is declared in the module that uses it."""

from esteira_web.accounts.login import LoginFailure
from esteira_web.accounts.tokens import ApiToken

__all__ = ["ApiToken", "LoginFailure"]
