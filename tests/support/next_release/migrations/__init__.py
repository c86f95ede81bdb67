"""The migrations of `esteira` with one more, as a later release may bring it; see `tests/integration/test_online_migrations`."""

from esteira import migrations

__path__ += migrations.__path__
