"""What `docker compose up` starts, as rendered: hardened, in order, and reachable only where it should be."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.repo.compose_files import FILES, filled, rendered
from tests.repo.test_env_example import read_by_settings, shown
from tests.repo.tools import run
from tests.repo.tree import ROOT, files, text

OURS = {
    "web": "web",
    "worker": "worker",
    "beat": "beat",
    "flower": "flower",
    "secrets": "secrets",
    "migrate": "web",
}
ONCE = {"secrets", "migrate"}
KEPT = {"postgres", "redis", "web", "worker", "beat", "flower"}
#: What COMPOSE_PROFILES adds, if it names all that there are.
ALL = "backup,bucket,exporters"
ADDED_ONCE = {"exporters-login"}
ADDED_KEPT = {"backup", "upload", "postgres-exporter", "redis-exporter", "disk-exporter"}
#: Where files stand in an image is the image's to say.
IMAGES_OWN = {"STATIC_ROOT"}
#: Made of a published port, so that pages link to where people are; and what is another thing in a container.
DERIVED = {
    "WEB_URL": "http://127.0.0.1:8000",
    "FLOWER_URL": "http://127.0.0.1:5555",
    "MANAGE_COMMAND": "docker compose exec web manage",
    "MIGRATE_COMMAND": "docker compose run --rm migrate",
    "DATA_DIR": "/data",
    "RUN_DIR": "/run/esteira",
}
UNITS = {"h": 3600, "m": 60, "s": 1}


def services(**settings: str) -> dict[str, dict[str, Any]]:
    return dict(rendered(**settings)["services"])


def seconds(duration: str) -> float:
    """Return the seconds of 1m30s, as compose writes them."""
    parts = re.findall(r"([\d.]+)([hms])", duration)
    assert "".join(n + unit for n, unit in parts) == duration, duration
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def bytes_of(written: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([kmg])b?", written.lower()).groups()  # type: ignore[union-attr]
    return int(number) * {"k": 1024, "m": 1024**2, "g": 1024**3}[unit]


# --- The files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stack", "more"), [("prod", set()), ("dev", {"mail"})])
def test_it_renders_without_any_settings(stack: str, more: set[str]) -> None:
    assert set(services(STACK=stack)) == KEPT | ONCE | more


@pytest.mark.parametrize(
    ("profiles", "more"),
    [
        ("backup", {"backup"}),
        ("backup,bucket", {"backup", "upload"}),
        ("exporters", {"exporters-login", "postgres-exporter", "redis-exporter", "disk-exporter"}),
        (ALL, ADDED_ONCE | ADDED_KEPT),
    ],
)
def test_a_profile_adds_its_parts_and_changes_no_other(profiles: str, more: set[str]) -> None:
    found = services(COMPOSE_PROFILES=profiles)

    assert set(found) == KEPT | ONCE | more
    assert {name: found[name] for name in KEPT | ONCE} == services()


def test_the_script_that_dumps_is_the_one_of_kubernetes() -> None:
    mounted = {v["target"]: v["source"] for v in services()["secrets"]["volumes"] if v["type"] == "bind"}
    found = services(COMPOSE_PROFILES="backup", POSTGRES_IMAGE="postgres:18-trixie", DATABASE_URL="")[
        "backup"
    ]

    assert mounted["/files/backup/backup"] == "./k8s/backup/backup"
    assert found["image"] == "postgres:18-trixie", "an older pg_dump refuses a newer server"
    assert not found["environment"]["ELSEWHERE"]
    assert services(COMPOSE_PROFILES="backup", DATABASE_URL="postgresql://db")["backup"]["environment"][
        "ELSEWHERE"
    ]


def test_what_backs_up_and_what_measures_wait_for_what_they_need() -> None:
    found, done = services(COMPOSE_PROFILES=ALL), "service_completed_successfully"

    waits = {
        name: {other: how["condition"] for other, how in found[name].get("depends_on", {}).items()}
        for name in ADDED_KEPT | ADDED_ONCE
    }

    assert waits == {
        "backup": {"migrate": done},
        "upload": {"migrate": done},
        "exporters-login": {"postgres": "service_healthy"},
        "postgres-exporter": {"exporters-login": done},
        "redis-exporter": {"redis": "service_healthy"},
        "disk-exporter": {"postgres": "service_healthy"},
    }


def test_no_stack_named_means_the_one_for_servers() -> None:
    assert rendered() == rendered(STACK="prod")


@pytest.mark.parametrize("stack", ["prod", "dev"])
def test_every_line_of_env_example_taken_in_changes_nothing(stack: str) -> None:
    """Each default is written twice, for people and for compose; both are the same."""
    lines = [f"{each.name}={each.default}" for each in shown() if each.name not in ("REDIS_URL", "VERSION")]

    assert rendered("\n".join(lines), STACK=stack) == rendered(STACK=stack)


def test_a_dotenv_is_read_and_the_environment_wins_over_it() -> None:
    dotenv = "STACK=dev\nPORT=9000\nLEASE_SECONDS=3\n"

    found = rendered(dotenv, LEASE_SECONDS="4")["services"]

    assert "mail" in found
    assert found["web"]["ports"][0]["published"] == "9000"
    assert found["web"]["environment"]["LEASE_SECONDS"] == "4"


def test_the_files_keep_to_the_compose_specification(tmp_path: Path) -> None:
    """With their defaults in: the specification is about what is left when variables are gone."""
    for path in FILES:
        (tmp_path / path.name).write_text(filled(text(path)))

    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *map(str, tmp_path.iterdir()))


def test_yaml_says_what_it_seems_to_say() -> None:
    run("yamllint", "--strict", *(str(path) for path in files() if path.suffix in (".yaml", ".yml")))


def test_an_override_is_merged_over_all_and_the_example_of_one_does_what_it_says() -> None:
    usual, found = (
        rendered()["services"],
        rendered(override=text("compose.override.yaml.example"))["services"],
    )

    changed = {name for name in found if found[name] != usual[name]}
    (port,) = found["postgres"]["ports"]
    assert changed == {"postgres", "worker", "flower"}
    assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "5432", 5432)
    assert set(found["postgres"]["networks"]) == {"front", "back"}
    assert found["worker"]["extra_hosts"] == ["host.docker.internal=host-gateway"]
    assert found["flower"]["deploy"]["replicas"] == 0
    assert found["flower"]["deploy"]["resources"] == usual["flower"]["deploy"]["resources"]


@pytest.mark.parametrize(("dotenv", "many"), [("", 1), ("WORKERS=4\n", 4)])
def test_workers_are_as_many_as_a_dotenv_says(dotenv: str, many: int) -> None:
    assert rendered(dotenv)["services"]["worker"]["deploy"]["replicas"] == many


# --- Settings --------------------------------------------------------------------------------------------------------------


def test_settings_have_the_same_default_in_compose_and_in_the_code() -> None:
    defaults = {**dict(read_by_settings()), **DERIVED}

    different = {
        f"{service}: {name}={value}"
        for service, each in services().items()
        for name, value in each.get("environment", {}).items()
        if service not in ("secrets", "flower") and name in defaults and value != defaults[name]
    }

    assert not different


def test_every_setting_can_be_given_to_the_containers() -> None:
    given = {name.removesuffix("_FILE") for s in OURS for name in services()[s].get("environment", {})}

    assert {name for name, _ in read_by_settings()} - given == IMAGES_OWN


def test_no_secret_has_a_default() -> None:
    """Flower's key signs nothing, and Django does not start without one."""
    written = {
        f"{service}: {name}={value}"
        for stack in ("prod", "dev")
        for service, each in services(STACK=stack).items()
        for name, value in each.get("environment", {}).items()
        if value and not name.endswith("_FILE") and _is_secret(name, str(value))
    }

    assert written == {"flower: SECRET_KEY=flower-signs-nothing"}


def _is_secret(name: str, value: str) -> bool:
    return bool(re.search(r"PASSWORD|SECRET|KEY$|AUTH|TOKEN", name) or re.search(r"://[^/@]*:[^/@]+@", value))


def test_what_shell_scripts_in_containers_read_is_shown_or_their_own() -> None:
    folders = ("services", "compose/redis", "compose/postgres", "compose/nightly")
    scripts = [
        path for path in files() if str(path).startswith(folders) and text(path).startswith("#!/bin/sh")
    ]
    known = {each.name for each in shown()} | {"PATH", "TMPDIR", "PGPASSWORD"}
    known |= {"ELSEWHERE", "BACKUPS"}  # by compose itself, and by tests
    assert len(scripts) >= 4

    for path in scripts:
        own = set(re.findall(r"^\s*(\w+)=", text(path), re.MULTILINE))
        assert set(re.findall(r"\$\{?([A-Z_]+)", text(path))) <= known | own, path


# --- Images and commands ---------------------------------------------------------------------------------------------------


def test_each_part_of_ours_has_its_image_and_a_target_that_builds_it() -> None:
    for name, role in OURS.items():
        part = services()[name]
        assert part["image"] == f"esteira-{role}:latest"
        built = services()["migrate" if role == "web" else name]["build"]
        assert built["target"] == role
        assert built["dockerfile"] == "services/Dockerfile"


def test_a_registry_and_a_version_name_all_four() -> None:
    found = services(IMAGE_PREFIX="registry.example/team/", VERSION="1.2")

    images = {found[name]["image"] for name in OURS if name != "secrets"}
    assert images == {
        f"registry.example/team/esteira-{role}:1.2" for role in OURS.values() if role != "secrets"
    }
    # It is built here, whatever runs: an image that a release names would restart the servers with each of them.
    assert found["secrets"]["image"] == "registry.example/team/esteira-secrets:latest"
    assert found["secrets"]["pull_policy"] == "never"
    assert found["web"]["image"].endswith("esteira-web:1.2")


@pytest.mark.parametrize("named", ["in .env", "in the environment"])
def test_another_installation_has_other_images_volumes_and_networks(named: str) -> None:
    line = "COMPOSE_PROJECT_NAME=second\n"
    found = rendered(line) if named == "in .env" else rendered(COMPOSE_PROJECT_NAME="second")

    assert found["name"] == "second"
    assert {found["services"][name]["image"] for name in OURS} == {
        f"second-{role}:latest" for role in OURS.values()
    }
    for kind in ("volumes", "networks"):
        assert {each["name"] for each in found[kind].values()} == {f"second_{key}" for key in found[kind]}


def test_a_registry_names_the_images_of_every_installation_alike() -> None:
    found = services(IMAGE_PREFIX="registry.example/team/", COMPOSE_PROJECT_NAME="second")

    assert found["web"]["image"] == "registry.example/team/esteira-web:latest"


def test_servers_come_from_the_images_that_were_named() -> None:
    found = services(POSTGRES_IMAGE="postgres:14", REDIS_IMAGE="redis:8.2")

    assert (found["postgres"]["image"], found["redis"]["image"]) == ("postgres:14", "redis:8.2")


@pytest.mark.parametrize("part", ["web", "worker", "beat", "flower"])
def test_on_a_server_a_part_runs_its_image_s_own_command(part: str) -> None:
    assert not services()[part].get("command")
    assert not services()[part].get("entrypoint")
    assert set(services()[part]["healthcheck"]) == {"start_period", "retries"}, (
        "the image's own says when it works"
    )


# --- Order and durations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drain", [25.0, 0.5, 3.0, 600.0])
def test_a_worker_has_its_drain_and_ten_seconds_to_leave(drain: float) -> None:
    part = services(DRAIN_SECONDS=f"{drain}")["worker"]

    assert seconds(part["stop_grace_period"]) == drain + 10
    assert part["environment"]["DRAIN_SECONDS"] == f"{drain}"


def test_web_ends_its_requests_before_it_is_killed() -> None:
    config = runpy.run_path(str(ROOT / "services/web/gunicorn.conf.py"))

    assert config["graceful_timeout"] + 5 <= seconds(services()["web"]["stop_grace_period"])


def test_under_dev_a_saved_file_does_not_cut_jobs_off_before_their_drain() -> None:
    command = services(STACK="dev")["worker"]["command"]

    patience = float(command[command.index("--sigint-timeout") + 1])
    assert patience >= seconds(services(STACK="dev")["worker"]["stop_grace_period"])


@pytest.mark.parametrize(("part", "least"), [("postgres", 30), ("redis", 10), ("beat", 5), ("flower", 10)])
def test_what_writes_has_time_to_end(part: str, least: int) -> None:
    assert seconds(services()[part]["stop_grace_period"]) >= least


def test_nothing_of_ours_starts_before_its_secrets_and_its_tables() -> None:
    found, done, healthy = services(), "service_completed_successfully", "service_healthy"

    waits = {
        name: {other: how["condition"] for other, how in part.get("depends_on", {}).items()}
        for name, part in found.items()
    }

    assert waits == {
        "secrets": {},
        "postgres": {"secrets": done},
        "redis": {"secrets": done},
        "migrate": {"postgres": healthy},
        "web": {"migrate": done},
        "worker": {"migrate": done},
        "beat": {"migrate": done},
        "flower": {"redis": healthy},
    }


# --- Hardened --------------------------------------------------------------------------------------------------------------


def every_service() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for stack in ("prod", "dev"):
        for name, part in services(STACK=stack, COMPOSE_PROFILES=ALL).items():
            yield stack, name, part


def test_every_container_has_a_read_only_root_and_no_capability() -> None:
    for stack, name, part in every_service():
        assert part["read_only"] is True, (stack, name)
        assert part["cap_drop"] == ["ALL"], (stack, name)
        assert part["security_opt"] == ["no-new-privileges:true"], (stack, name)


def test_no_container_is_given_more_than_it_needs_or_a_name_that_blocks_a_second_one() -> None:
    wanted = {
        "privileged",
        "cap_add",
        "devices",
        "pid",
        "ipc",
        "userns_mode",
        "uts",
        "cgroup",
        "container_name",
        "links",
    }
    for stack, name, part in every_service():
        assert wanted & set(part) == ({"cap_add"} if name == "secrets" else set()), (stack, name)
        assert part.get("network_mode") in (None, "none"), (stack, name)
        assert not [v for v in part.get("volumes", []) if "docker.sock" in v.get("source", "")], (stack, name)


def test_no_container_that_stays_runs_as_root_and_the_one_shot_that_does_only_reads_more() -> None:
    """Those of ours take the user of their image."""
    users = {name: part["user"] for _, name, part in every_service() if part.get("user")}
    one_shot = services()["secrets"]

    assert users == {
        **dict.fromkeys(("postgres", "redis", "backup", "upload", "exporters-login"), "999:999"),
        **dict.fromkeys(("postgres-exporter", "disk-exporter"), "65534:65534"),
        "redis-exporter": "59000:59000",
        "secrets": "0:10001",
    }
    assert (one_shot["cap_add"], one_shot["network_mode"]) == (["DAC_READ_SEARCH"], "none")


def test_servers_mount_nothing_of_this_folder_because_its_modes_may_shut_them_out() -> None:
    binds = {
        name: {volume["source"] for volume in part.get("volumes", []) if volume["type"] == "bind"}
        for name, part in services(COMPOSE_PROFILES=ALL).items()
    }

    assert binds.pop("secrets") == {
        "./secrets",
        "./compose/postgres",
        "./compose/redis",
        "./compose/nightly/timer",
        "./compose/nightly/healthy",
        "./k8s/backup/backup",
        "./k8s/exporters/login",
    }
    assert not any(binds.values()), binds


@pytest.mark.parametrize("name", sorted(KEPT | ONCE | ADDED_KEPT | ADDED_ONCE))
def test_on_a_server_every_container_has_limits_and_a_log_that_ends(name: str) -> None:
    part = services(COMPOSE_PROFILES=ALL)[name]

    limits = part["deploy"]["resources"]["limits"]
    assert float(limits["cpus"]) > 0
    assert int(limits["memory"]) >= bytes_of("64m" if name.endswith("-exporter") else "128m")
    assert int(limits["pids"]) > 0
    assert part["logging"]["driver"] == "json-file"
    assert bytes_of(part["logging"]["options"]["max-size"]) <= bytes_of("50m")
    assert int(part["logging"]["options"]["max-file"]) <= 5


def test_on_a_server_what_ends_is_started_again_and_what_is_done_is_not() -> None:
    found = services(COMPOSE_PROFILES=ALL)

    assert {name for name in found if found[name].get("restart") == "unless-stopped"} == KEPT | ADDED_KEPT
    assert {name for name in found if not found[name].get("restart")} == ONCE | ADDED_ONCE


def test_limits_can_be_changed() -> None:
    found = services(WORKER_CPUS="4", WORKER_MEMORY="3g", WEB_MEMORY="1g", POSTGRES_CPUS="8")
    limits = {name: part["deploy"]["resources"]["limits"] for name, part in found.items()}

    assert (float(limits["worker"]["cpus"]), int(limits["worker"]["memory"])) == (4, bytes_of("3g"))
    assert int(limits["web"]["memory"]) == bytes_of("1g")
    assert float(limits["postgres"]["cpus"]) == 8


def test_servers_are_set_up_for_the_memory_that_they_may_use() -> None:
    limits = {name: int(services()[name]["deploy"]["resources"]["limits"]["memory"]) for name in KEPT}
    redis, postgres = text("compose/redis/redis.conf"), text("compose/postgres/postgresql.conf")

    most = bytes_of(_option(redis, r"^maxmemory (\S+)"))
    shared = bytes_of(_option(postgres, r"^shared_buffers = (\S+)"))
    cached = bytes_of(_option(postgres, r"^effective_cache_size = (\S+)"))
    assert 2 * most <= limits["redis"], "rewriting its file may need all of it once more"
    assert shared + cached <= limits["postgres"]
    assert _option(redis, r"^maxmemory-policy (\S+)") == "noeviction"
    assert not re.search(r"^\s*(fsync|synchronous_commit|full_page_writes)\b", postgres, re.MULTILINE)


def _option(config: str, pattern: str) -> str:
    (found,) = re.findall(pattern, config, re.MULTILINE)
    return str(found)


# --- Networks, ports, secrets ------------------------------------------------------------------------------------------------


def test_servers_are_at_the_back_only_and_the_back_leads_nowhere() -> None:
    found, networks = services(COMPOSE_PROFILES=ALL), rendered()["networks"]

    assert networks["back"]["internal"] is True
    assert not networks["front"].get("internal")
    assert {name for name in found if set(found[name].get("networks", {})) == {"back"}} == {
        "postgres",
        "redis",
        "migrate",
        "beat",
        "backup",
        "exporters-login",
        "postgres-exporter",
        "redis-exporter",
        "disk-exporter",
    }
    assert found["secrets"]["network_mode"] == "none"


@pytest.mark.parametrize("stack", ["prod", "dev"])
def test_only_web_and_flower_are_published_and_only_to_this_machine(stack: str) -> None:
    published = {
        name: [(port["host_ip"], port["published"], port["target"]) for port in part["ports"]]
        for name, part in services(STACK=stack, COMPOSE_PROFILES=ALL).items()
        if part.get("ports")
    }

    assert published == {"web": [("127.0.0.1", "8000", 8000)], "flower": [("127.0.0.1", "5555", 5555)]}


def test_ports_can_be_moved_and_a_range_is_for_more_than_one_web() -> None:
    found = services(BIND="10.0.0.7", PORT="8000-8001", FLOWER_PORT="7777")

    ports = [found["web"]["ports"][0], found["flower"]["ports"][0]]
    assert [(p["host_ip"], p["published"]) for p in ports] == [
        ("10.0.0.7", "8000-8001"),
        ("10.0.0.7", "7777"),
    ]
    assert found["web"]["environment"]["FLOWER_URL"] == "http://127.0.0.1:7777"


def test_secrets_reach_their_readers_only_and_nobody_changes_them() -> None:
    readers: dict[str, set[str]] = {}
    for name, part in services(COMPOSE_PROFILES=ALL).items():
        for volume in part.get("volumes", []):
            if volume.get("source", "").startswith("keys-") and name != "secrets":
                assert volume["read_only"] is True, name
                readers.setdefault(volume["source"], set()).add(name)

    django = {"migrate", "web", "worker", "beat"}
    assert readers == {
        "keys-django": django,
        "keys-release": {"migrate"},
        "keys-redis": django | {"redis"},
        "keys-redis-flower": {"redis", "flower"},
        "keys-redis-admin": {"redis"},
        "keys-postgres": {"postgres", "backup", "upload", "exporters-login"},
        "keys-backup": {"upload"},
        "keys-postgres-metrics": {"exporters-login", "postgres-exporter"},
        "keys-redis-metrics": {"redis", "redis-exporter"},
        "keys-flower": {"flower"},
    }


def test_the_image_has_each_folder_of_secrets_so_that_a_new_volume_gets_its_mode() -> None:
    made = set(
        " ".join(
            re.findall(r"install -d -m 0750 -o 0 -g 10001 (.*?)&&", text("services/Dockerfile"), re.DOTALL)
        ).split()
    )

    mounted = {
        one["target"] for one in services()["secrets"]["volumes"] if one.get("source", "").startswith("keys-")
    }

    assert mounted <= made


def test_what_compose_mounts_from_this_folder_is_there_and_is_not_written() -> None:
    for _, name, part in every_service():
        for volume in part.get("volumes", []):
            if volume["type"] == "bind":
                assert volume["read_only"] is True, name
                assert (ROOT / volume["source"]).exists(), volume["source"]


def test_the_folder_of_web_s_command_line_is_a_volume_that_docker_cp_reaches() -> None:
    """Docker copies nothing into a read-only root, and does not see what is in memory."""
    for stack in ("prod", "dev"):
        web = services(STACK=stack)["web"]
        (mounted,) = [each for each in web["volumes"] if each["target"] == web["environment"]["DATA_DIR"]]

        assert (mounted["type"], mounted["source"], mounted.get("read_only")) == ("volume", "web", None)
        assert not [each for each in web["tmpfs"] if each.startswith(mounted["target"])]


def test_a_clone_has_the_folder_of_secrets() -> None:
    """Else the engine would make it, as root's; git keeps no empty folder."""
    assert Path("secrets/README.md") in files()
