"""What Django must find: the tables of `web`, each declared where it is used."""

from esteira_web.accounts.login import LoginFailure
from esteira_web.accounts.tokens import ApiToken

__all__ = ["ApiToken", "LoginFailure"]
