"""An installation's secrets: where each comes from, what is refused, and a change that can be begun anew."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from project import keys

NAMES = [secret.name for secret in keys.SECRETS]


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of this test instead of the volumes, and an environment that gives nothing."""
    monkeypatch.setattr(keys, "KEYS", tmp_path / "keys")
    monkeypatch.setattr(keys, "GIVEN", tmp_path / "given")
    for secret in (*keys.SECRETS, *keys.GIVEN_ONLY):
        secret.file.parent.mkdir(parents=True, exist_ok=True)
        monkeypatch.delenv(secret.name.upper(), raising=False)
    keys.GIVEN.mkdir()
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)


def kept(name: str) -> str:
    return next(secret.file for secret in keys.SECRETS if secret.name == name).read_text()


def give(name: str, value: str) -> None:
    (keys.GIVEN / name).write_text(value)


def everything() -> dict[str, str]:
    return {str(file): file.read_text() for file in sorted(keys.KEYS.rglob("*")) if file.is_file()}


def test_a_first_start_makes_every_secret_and_no_two_alike() -> None:
    keys.settle()

    made = [kept(name) for name in NAMES]
    assert len(set(made)) == len(NAMES)
    assert all(len(value) >= secret.shortest for value, secret in zip(made, keys.SECRETS, strict=True))


def test_what_only_somebody_else_can_make_is_handed_on_and_never_made() -> None:
    keys.settle()
    assert not [file for file in everything() if "bucket" in file]

    give("backup_bucket_key", "AKIA-OF-A-STORE")
    keys.settle()
    give("backup_bucket_key", "another")
    keys.settle()

    (key,) = [value for file, value in everything().items() if "bucket" in file]
    assert key == "another"


def test_readers_of_the_group_may_read_and_nobody_may_write() -> None:
    keys.settle()

    modes = {stat.S_IMODE(Path(file).stat().st_mode) for file in everything()}
    assert modes == {0o440}


def test_the_addresses_hold_the_passwords_quoted() -> None:
    give("postgres_password", "p@ss:word/1")
    give("postgres_app_password", "app:word/1")
    give("redis_password", "r#d?s word")

    keys.settle()

    postgres, app, redis = "p%40ss%3Aword%2F1", "app%3Aword%2F1", "r%23d%3Fs%20word"
    assert everything()[str(keys.KEYS / "django/database_url")] == (
        f"postgresql://esteira_app:{app}@postgres:5432/esteira"
    )
    assert everything()[str(keys.KEYS / "release/database_owner_url")] == (
        f"postgresql://esteira:{postgres}@postgres:5432/esteira"
    )
    assert everything()[str(keys.KEYS / "redis/redis_url")] == f"redis://esteira:{redis}@redis:6379/0"
    assert everything()[str(keys.KEYS / "redis-flower/redis_url")].startswith("redis://flower:")


def test_a_second_start_keeps_everything() -> None:
    keys.settle()
    before = everything()

    keys.settle()

    assert everything() == before


def test_the_environment_comes_before_a_file_and_a_file_before_what_was_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys.settle()

    give("admin_password", "from a file\n")
    keys.settle()
    assert kept("admin_password") == "from a file"

    monkeypatch.setenv("ADMIN_PASSWORD", "from the environment")
    keys.settle()
    assert kept("admin_password") == "from the environment"


def test_an_empty_variable_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_PASSWORD", "")

    keys.settle()

    assert len(kept("admin_password")) >= keys.SHORTEST


def test_servers_of_somebody_else_are_used_by_their_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:secret@db.example.com/jobs?sslmode=require")
    monkeypatch.setenv("REDIS_URL", "rediss://:secret@redis.example.com:6380/1")

    keys.settle()

    assert everything()[str(keys.KEYS / "django/database_url")].endswith("/jobs?sslmode=require")
    assert everything()[str(keys.KEYS / "release/database_owner_url")] == "", "one role does it all"
    for folder in ("redis", "redis-flower"):
        assert (
            everything()[str(keys.KEYS / folder / "redis_url")] == "rediss://:secret@redis.example.com:6380/1"
        )


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("admin_password", "short", "secrets/admin_password has 5 characters; give at least 8"),
        ("secret_key", "x" * 31, "secrets/secret_key has 31 characters; give at least 32"),
        ("redis_password", "", "secrets/redis_password has 0 characters"),
        ("flower_basic_auth", "without-a-colon", "secrets/flower_basic_auth is not a login for Flower"),
        ("flower_basic_auth", ":nobody-has-it", "secrets/flower_basic_auth is not a login for Flower"),
        ("redis_password", "two lines\nof text\n", "secrets/redis_password .* contains a line break"),
        ("redis_password", " begins with a space", "secrets/redis_password begins or ends with a space"),
    ],
)
def test_a_bad_file_is_refused_with_a_sentence_before_anything_is_written(
    name: str, value: str, said: str
) -> None:
    give(name, value)

    with pytest.raises(keys.BadSecret, match=said):
        keys.settle()

    assert not everything()


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_end_of_the_line_is_not_part_of_a_secret(end: str) -> None:
    (keys.GIVEN / "redis_password").write_bytes(f"one plain line{end}".encode())

    keys.settle()

    assert kept("redis_password") == "one plain line"


def test_a_bad_variable_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "tiny")

    with pytest.raises(keys.BadSecret, match="REDIS_PASSWORD has 4 characters"):
        keys.settle()


def test_what_cannot_be_read_is_named() -> None:
    (keys.GIVEN / "secret_key").mkdir()

    with pytest.raises(keys.BadSecret, match="secrets/secret_key cannot be read"):
        keys.settle()


def test_what_a_killed_start_left_half_written_is_written_anew() -> None:
    half = keys.KEYS / "django" / ".secret_key.new"
    half.write_text("half of a sec")
    half.chmod(0o400)

    keys.settle()

    assert not half.exists()
    assert len(kept("secret_key")) >= 32


def test_a_password_that_postgresql_does_not_know_starts_nothing() -> None:
    keys.settle()
    before = everything()
    give("postgres_password", "another password")

    with pytest.raises(keys.BadSecret, match="make rotate WHAT=postgres"):
        keys.settle()

    assert everything() == before


def test_what_is_prepared_is_not_in_use_until_it_is_adopted() -> None:
    keys.settle()
    before = kept("postgres_password")

    keys.prepare(["postgres_password"])
    assert kept("postgres_password") == before

    keys.adopt(["postgres_password"])
    assert kept("postgres_password") != before
    assert kept("postgres_password") in everything()[str(keys.KEYS / "release/database_owner_url")]


def test_a_change_that_was_interrupted_goes_on_with_the_same_value() -> None:
    keys.settle()
    keys.prepare(["redis_password", "redis_admin_password"])
    prepared = everything()

    keys.prepare(["redis_password", "redis_admin_password"])

    assert everything() == prepared


def test_a_start_in_the_middle_of_a_change_leaves_both_values() -> None:
    keys.settle()
    keys.prepare(["postgres_password"])
    prepared = everything()

    keys.settle()

    assert everything() == prepared


def test_a_given_value_is_the_next_one() -> None:
    keys.settle()
    keys.prepare(["postgres_password"])
    give("postgres_password", "given meanwhile")

    keys.prepare(["postgres_password"])
    keys.adopt(["postgres_password"])

    assert kept("postgres_password") == "given meanwhile"


def test_a_given_value_that_is_in_use_is_set_once_more(capsys: pytest.CaptureFixture[str]) -> None:
    give("postgres_password", "given once")
    keys.settle()

    keys.prepare(["postgres_password"])
    keys.adopt(["postgres_password"])

    assert kept("postgres_password") == "given once"
    assert "is already in use; it is set again" in capsys.readouterr().out


def test_the_password_of_a_server_of_somebody_else_is_not_ours_to_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys.settle()
    before = everything()
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:secret@db.example.com/jobs")

    with pytest.raises(keys.BadSecret, match="DATABASE_URL is the address of a server outside this stack"):
        keys.prepare(["postgres_password"])

    assert everything() == before


def test_words_that_mean_nothing_are_refused() -> None:
    with pytest.raises(SystemExit, match="prepare or adopt"):
        keys.main(["perpare", "secret_key"])


def test_a_bad_secret_ends_the_start_with_its_sentence() -> None:
    give("admin_password", "short")

    with pytest.raises(SystemExit, match="secrets/admin_password has 5 characters"):
        keys.main([])
