"""Where it runs: both overlays and every component build, alone and together, and what they build is sound."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from project.keys import GIVEN_ONLY, SECRETS
from tests.repo.manifest_faults import Objects, faults, of_kind, pods, selects
from tests.repo.manifests import (
    COMPONENTS,
    EXCLUSIVE,
    OVERLAYS,
    DoesNotBuild,
    all_taken_in,
    base,
    build,
    built,
    combined,
    copied,
    is_refused,
    overlay,
)
from tests.repo.test_env_example import shown
from tests.repo.tree import ROOT, files, text

NAMESPACES = {"dev": "esteira-dev", "prod": "esteira"}


def settings_of(objects: Objects, name: str) -> dict[str, str]:
    """Return what a process of one Deployment reads, later sources first."""
    (pod,) = [pod for pod in pods(objects) if pod.name == name]
    maps = {one["metadata"]["name"]: one["data"] for one in of_kind(objects, "ConfigMap")}
    read: dict[str, str] = {}
    for source in pod.spec["containers"][0]["envFrom"]:
        read |= maps[source["configMapRef"]["name"]] if "configMapRef" in source else {}
    return read


# --- They build ----------------------------------------------------------------------------------------------------------


def test_both_ways_of_applying_the_base_apply_the_same() -> None:
    one_by_one = [
        one
        for path in files()
        if path.match("k8s/*.yaml") and len(path.parts) == 2
        for one in yaml.safe_load_all(text(path))
    ]

    def sorted_(objects: Any) -> list[Any]:
        return sorted(objects, key=lambda one: (one["kind"], one["metadata"]["name"]))

    assert sorted_(base()) == sorted_(one_by_one)


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_sound(name: str) -> None:
    assert not faults(overlay(name))


@pytest.mark.parametrize("components", combined(), ids="+".join)
def test_components_go_together_or_are_refused(components: tuple[str, ...]) -> None:
    found = faults(overlay("prod", *components))

    assert bool(found) == is_refused(components), found


@pytest.mark.parametrize(
    "pair", [sorted(pair) for pair in EXCLUSIVE if pair <= set(COMPONENTS)], ids="+".join
)
def test_two_that_exclude_each_other_say_so(pair: list[str]) -> None:
    for name, other in (pair, reversed(pair)):
        assert other in text(f"k8s/{name}/kustomization.yaml"), f"{name} does not name {other}"


def test_every_folder_is_a_component_and_lists_its_files() -> None:
    assert {"backup", "external-postgres", "external-redis", "ingress", "settings"} <= set(COMPONENTS)
    for name in COMPONENTS:
        file = Path(f"k8s/{name}/kustomization.yaml")
        assert yaml.safe_load(text(file))["kind"] == "Component", file
        inside = {str(path.relative_to(file.parent)) for path in files() if path.is_relative_to(file.parent)}
        unnamed = [each for each in inside - {"kustomization.yaml"} if each not in text(file)]
        assert not unnamed, f"{file} does not name {unnamed}"


def test_no_component_says_where_it_runs() -> None:
    """An overlay does; only a peer of a policy may be named by its namespace."""
    placed = [
        str(path)
        for path in files()
        if path.parts[0] == "k8s"
        and path.suffix == ".yaml"
        and re.search(r"^(  )?namespace:", text(path), re.MULTILINE)
    ]

    assert not placed


def test_what_kustomize_refuses_is_told(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [nowhere.yaml]\n")

    with pytest.raises(DoesNotBuild, match=r"nowhere\.yaml"):
        build(tmp_path)


def test_a_build_needs_nothing_but_what_is_committed() -> None:
    with copied() as here:
        for name in OVERLAYS:
            assert built(here / "deploy" / name) == built(ROOT / "deploy" / name)


# --- What an overlay says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_namespace_of_its_own_lets_in_restricted_pods_only(name: str) -> None:
    (namespace,) = of_kind(overlay(name), "Namespace")

    assert namespace["metadata"]["name"] == NAMESPACES[name]
    for mode in ("enforce", "audit", "warn"):
        assert namespace["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}"] == "restricted"
    inside = {one["metadata"]["namespace"] for one in overlay(name) if one["kind"] != "Namespace"}
    assert inside == {NAMESPACES[name]}


@pytest.mark.parametrize("name", OVERLAYS)
def test_it_names_each_of_our_images(name: str) -> None:
    named = {one["name"] for one in yaml.safe_load(text(f"deploy/{name}/kustomization.yaml"))["images"]}
    used = {c["image"].split(":")[0] for pod in pods(overlay(name)) for c in pod.containers()}

    assert named == {image for image in used if image.startswith("esteira-")}


@pytest.mark.parametrize("name", OVERLAYS)
def test_its_settings_win_and_a_change_restarts_what_reads_them(name: str) -> None:
    (file,) = yaml.safe_load(text(f"deploy/{name}/kustomization.yaml"))["configMapGenerator"]
    wanted = dict(literal.split("=", 1) for literal in file["literals"])
    known = {each.name for each in shown()}

    for part in ("web", "worker", "beat", "flower"):
        assert wanted.items() <= settings_of(overlay(name), part).items()
    assert set(wanted) <= known
    made = [one["metadata"]["name"] for one in of_kind(overlay(name), "ConfigMap")]
    assert [each for each in made if re.fullmatch(r"settings-[a-z0-9]{10}", each)]


def test_an_overlay_without_secrets_leaves_the_secret_to_the_job_that_fills_it() -> None:
    for name in OVERLAYS:
        (secret,) = of_kind(overlay(name), "Secret")
        assert secret["metadata"]["name"] == "esteira"
        assert not {"data", "stringData"} & set(secret)


def all_that_goes_together(*, without: str = "gateway") -> str:
    """Return prod with everything taken in but one of each two that exclude each other."""
    left_out = rf"  - (\.\./\.\./k8s/(backup|exporters|hpa|{without}) |\{{name: web, )"
    return re.sub(left_out, "#", all_taken_in("prod"))


@pytest.mark.parametrize("without", ["gateway", "ingress"])
def test_what_prod_has_commented_out_builds_when_it_is_taken_in(without: str) -> None:
    """All but what excludes each other; the example stands for the file of secrets."""
    with copied() as here:
        folder = here / "deploy" / "prod"
        (folder / "kustomization.yaml").write_text(all_that_goes_together(without=without))
        given = text("deploy/prod/secrets.env.example").replace("#redis_url=", "redis_url=")
        (folder / "secrets.env").write_text(given)
        (folder / "jobs.env").write_text("SHOP_API_KEY=a key\n")
        objects = build(folder)

    secret, own = of_kind(objects, "Secret")
    assert not faults(objects)
    assert secret["metadata"]["name"] == "esteira"
    assert set(secret["data"]) == {"redis_url"}
    assert set(own["data"]) == {"SHOP_API_KEY"}
    for pod in pods(objects):
        told = [
            each["secretRef"]["name"]
            for c in pod.containers()
            for each in c.get("envFrom", [])
            if "secretRef" in each
        ]
        loads_jobs = pod.name in ("web", "worker", "beat")
        assert set(told) == ({own["metadata"]["name"]} if loads_jobs else set()), pod.name
        if not loads_jobs and "envFrom" in pod.spec["containers"][0]:
            assert {"name": "JOB_PACKAGES"} in pod.environment(), f"{pod.name} would load jobs untold"
    assert hosts(objects) == {"jobs.example.com"}
    assert settings_of(objects, "web")["WEB_URL"] == "https://jobs.example.com"
    assert not {"postgres", "redis"} & {pod.name for pod in pods(objects)}


def hosts(objects: Objects) -> set[str]:
    """Return the names under which people reach web from outside."""
    found = {name for one in of_kind(objects, "HTTPRoute") for name in one["spec"]["hostnames"]}
    for one in of_kind(objects, "Ingress"):
        found |= {rule["host"] for rule in one["spec"]["rules"]}
        found |= {host for tls in one["spec"]["tls"] for host in tls["hosts"]}
    return found


def test_more_pods_of_web_are_a_number_in_prod() -> None:
    with copied() as here:
        file = here / "deploy" / "prod" / "kustomization.yaml"
        file.write_text(re.sub(r"#(?=  - \{name: web, count)", "", file.read_text()))
        objects = build(file.parent)

    (web,) = [one for one in of_kind(objects, "Deployment") if one["metadata"]["name"] == "web"]
    assert web["spec"]["replicas"] == 3


def test_a_missing_file_of_secrets_is_named() -> None:
    with copied() as here:
        file = here / "deploy" / "prod" / "kustomization.yaml"
        file.write_text(all_that_goes_together())

        with pytest.raises(DoesNotBuild, match=r"secrets\.env"):
            build(file.parent)


def test_secrets_can_be_given_by_the_names_that_are_read_and_are_not_committed() -> None:
    lines = text("deploy/prod/secrets.env.example").splitlines()
    named = {match[1] for line in lines if (match := re.match(r"#?([a-z_]+)=", line))}

    assert named == {secret.name for secret in (*SECRETS, *GIVEN_ONLY)} | {
        "database_url",
        "database_owner_url",
        "redis_url",
        "email_url",
    }
    assert all(not line or line.startswith("#") for line in lines), (
        "a copy of the example must change nothing"
    )
    assert {"/deploy/*/secrets.env", "/deploy/*/jobs.env"} <= set(text(".gitignore").splitlines())


# --- What a component does -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("component", ["gateway", "ingress"])
def test_behind_a_proxy_of_the_cluster_web_believes_it_and_nobody_else_gets_in(component: str) -> None:
    objects = overlay("prod", component)
    (policy,) = [one for one in of_kind(objects, "NetworkPolicy") if one["metadata"]["name"] == "web"]
    web = settings_of(objects, "web")

    assert (web["BEHIND_TLS"], web["FORWARDED_ALLOW_IPS"]) == ("", "*")
    (rule,) = [rule for rule in policy["spec"]["ingress"] if rule["ports"][0]["port"] == 8000]
    assert list(rule["from"][0]) == ["namespaceSelector"]
    assert "localhost" in web["ALLOWED_HOSTS"].split(","), "the probes ask it"
    (host,) = hosts(objects)
    assert web["WEB_URL"] == f"https://{host}"
    assert "flower" not in str(of_kind(objects, "Ingress", "HTTPRoute"))


def test_a_gateway_leads_to_web_from_its_listener_for_https_only() -> None:
    (route,) = of_kind(overlay("prod", "gateway"), "HTTPRoute")

    assert [parent["sectionName"] for parent in route["spec"]["parentRefs"]] == ["https"]
    assert [rule["timeouts"] for rule in route["spec"]["rules"]] == [{"request": "0s"}]


@pytest.mark.parametrize(("server", "port"), [("postgres", 5432), ("redis", 6379)])
def test_a_server_outside_takes_the_place_of_ours(server: str, port: int) -> None:
    objects = overlay("prod", f"external-{server}")

    left = [
        (o["kind"], o["metadata"]["name"])
        for o in objects
        if o["metadata"]["name"] in (server, f"to-{server}")
    ]
    (policy,) = [
        o for o in of_kind(objects, "NetworkPolicy") if o["metadata"]["name"] == f"to-external-{server}"
    ]
    opened = [o for o in of_kind(overlay("prod"), "NetworkPolicy") if o["metadata"]["name"] == f"to-{server}"]
    assert not left
    assert policy["spec"]["egress"][0]["ports"] == [{"protocol": "TCP", "port": port}]
    ours = _selected(opened[0], objects)
    assert ours and ours <= _selected(policy, objects)


def _selected(policy: dict[str, Any], objects: Objects) -> set[str]:
    return {pod.name for pod in pods(objects) if selects(policy["spec"]["podSelector"], pod.labels)}


def test_backups_are_made_by_the_server_s_own_version() -> None:
    objects = overlay("prod", "backup")
    images = {
        container["name"]: container["image"] for pod in pods(objects) for container in pod.containers()
    }

    assert images["dump"] == images["restore"] == images["postgres"]


def test_a_failed_upload_makes_no_second_dump() -> None:
    """A new pod would dump once more, and after some nights nothing older would be left on the volume."""
    (cron,) = [
        one for one in of_kind(overlay("prod", "backup"), "CronJob") if one["metadata"]["name"] == "backup"
    ]
    job = cron["spec"]["jobTemplate"]["spec"]

    assert job["podFailurePolicy"]["rules"] == [
        {"action": "FailJob", "onExitCodes": {"containerName": "upload", "operator": "NotIn", "values": [0]}}
    ]
    assert [each["name"] for each in job["template"]["spec"]["initContainers"]] == ["dump"]
