"""What Django must find: the tables of `web`, each declared where it is used."""

from web.login import LoginFailure
from web.tokens import ApiToken

__all__ = ["ApiToken", "LoginFailure"]
