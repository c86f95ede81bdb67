# The front door. `make` alone says what there is. Python 3.11 to 3.13 and make are all that is assumed: the first
# target makes .venv, puts the locked dependencies and those of your own jobs into it, and does so again whenever uv.lock
# or jobs/requirements.txt changes.

.DEFAULT_GOAL := help
.PHONY: help run test quick check lint fuzz openapi chaos kills chaos-compose chaos-k8s bench sizes fmt up down logs scale password backup backups restore upgrade rollback rotate lock wheel clean
MAKEFLAGS += --no-print-directory

FITS := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c "$(FITS)" 2>/dev/null && echo $$p && break; done)
PY := .venv/bin/python
UV := .venv/uv/bin/uv
MINUTES ?= 10
PROCESSES ?= 2

export UV_SYSTEM_CERTS := 1
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := .venv
unexport VIRTUAL_ENV
# The lock names the index that it was made with; another one, that a machine may have for all else, is no change of it.
LOCKED := env -u UV_DEFAULT_INDEX -u UV_INDEX_URL -u UV_INDEX -u UV_EXTRA_INDEX_URL

help:
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 } \
		END { print "" }' Makefile

##@ Run
run: .venv/.synced ## The whole stack, no containers: PORT=8000 FLOWER_PORT=5555 CONCURRENCY=2 LEASE_SECONDS=10
	@$(PY) -m project.local

##@ Check
test: .venv/.synced ## Every test, on a real PostgreSQL and Valkey that the suite starts; ARGS="-k claim" for some
	@$(PY) -m pytest -n $(PROCESSES) $(ARGS)

quick: .venv/.synced ## Unit and integration tests without the slow ones, in about 4 minutes
	@$(PY) -m pytest -n $(PROCESSES) -q -m "not slow and not long" tests/unit tests/integration $(ARGS)

check: lint ## What lint checks, and the documents and manifests against the code; needs no server
	@$(PY) -m pytest -n $(PROCESSES) -q tests/repo

lint: export SECRET_KEY := check
lint: export DATABASE_URL := postgresql://nobody@127.0.0.1:1/none
lint: .venv/.synced ## Style, types, layers, Django's own checks
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	$(PY) manage.py check --fail-level WARNING
	$(PY) -W "ignore:Got an error checking a consistent migration history" manage.py makemigrations --check --dry-run

fuzz: export MINUTES := $(MINUTES)
fuzz: .venv/.synced ## Requests made at random from the API's own description, for a while: MINUTES=10 SEED=7
	@$(PY) -m pytest tests/integration/test_api_described.py -m fuzz -s $(ARGS)

openapi: export SECRET_KEY := check
openapi: export DATABASE_URL := postgresql://nobody@127.0.0.1:1/none
openapi: .venv/.synced ## Write the API's description, with the job types of this checkout, to docs/openapi.json
	@$(PY) manage.py shell -v 0 -c "import json, sys; from esteira.job_types.registry import registry; from esteira_web.api.routes import api; \
		from esteira_web.api.openapi import described; json.dump(described(api, registry.all()), sys.stdout, indent=1); print()" \
		>docs/openapi.json

chaos: export MINUTES := $(MINUTES)
chaos: .venv/.synced ## Random kills for a while, then the invariants: MINUTES=10 SEED=7
	@$(PY) -m pytest tests/chaos -m random_chaos -s $(ARGS)

kills: export JOBS := 2000
kills: export KILLS := 20
kills: export REPEAT := 5
kills: export OUTAGES := 3,15
kills: export BEATS_SECONDS := 60
kills: .venv/.synced ## Each part is killed five times among 2,000 jobs; one table of the seconds to recover (50 minutes; 3 hours on a slow machine)
	@$(PY) -m pytest tests/chaos -m kills $(ARGS)

chaos-compose: export JOBS := 2000
chaos-compose: export REPEAT := 5
chaos-compose: export LEASE := 10
chaos-compose: .venv/.synced ## The kills in containers, networks and volumes too: JOBS=2000 REPEAT=5 LEASE=10 MINUTES=2 SEED=7 (2 hours)
	@$(PY) -m pytest tests/chaos -m "containers and not cluster" -s $(ARGS)

chaos-k8s: export JOBS := 2000
chaos-k8s: export REPEAT := 5
chaos-k8s: export LEASE := 10
chaos-k8s: .venv/.synced ## The same on Kubernetes: pods, roll-outs, scaling, drains; JOBS=2000 REPEAT=5 LEASE=10 (2 hours)
	@$(PY) -m pytest tests/chaos tests/e2e -m cluster -s $(ARGS)

bench: .venv/.synced ## Jobs per second and latency, beside plain Celery; ARGS=--peers beside other queues too
	@$(PY) -m bench $(ARGS)

sizes: .venv/.synced ## Images, memory and starts of a container stack of its own: the tables of docs/images.md
	@$(PY) -m bench.images

fmt: .venv/.synced ## Format the code and mend what can be mended
	$(PY) -m ruff check --fix --exit-zero .
	$(PY) -m ruff format .

##@ Containers
up: ## The whole stack in containers, ready when this returns; STACK=dev for work on the code
	@bin/up

down: ## Stop and remove the containers; the data stays in its volumes
	@bin/down

logs: ## Follow what all parts say; ARGS=worker for one
	@docker compose logs -f --tail 50 $(ARGS)

scale: ## Run this many workers: make scale WORKERS=4
	@bin/scale $(WORKERS)

password: ## Show addresses, and the passwords that this installation made or was given
	@bin/addresses passwords

backup: ## Everything that PostgreSQL holds, in one file below backups/
	@bin/backup

backups: ## The dumps that the timer has made, and which of them the bucket holds
	@bin/backups

restore: ## Put a backup back, in place or into a new volume: make restore FILE=backups/esteira-….dump
	@bin/restore $(FILE)

upgrade: ## Build the images, back up, migrate, replace one container after the other; IMAGES=pull BACKUP=no
	@bin/upgrade

rollback: ## Go back to the images that ran before the last upgrade
	@VERSION=previous IMAGES=there BACKUP=no bin/upgrade

rotate: ## A new password: make rotate WHAT=postgres, redis, flower, admin or secret_key
	@bin/rotate $(WHAT)

##@ Ship
wheel: $(UV) ## The package for other projects, in dist/; docs/adding-esteira-to-a-project.md uses it
	@$(UV) build --quiet --clear --out-dir dist && ls dist/*.whl

lock: $(UV) ## Move the locked dependencies to the newest that pyproject.toml allows
	$(UV) lock --upgrade

clean: ## Remove the environment and the caches; the data of `make run` stays in .esteira/
	rm -rf .venv dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- The environment ---------------------------------------------------------------------------------------------------

.venv/.synced: uv.lock pyproject.toml jobs/requirements.txt | $(UV)
	@echo "Putting the locked dependencies into .venv"
	@$(LOCKED) $(UV) sync --locked --quiet || { echo "If the lockfile needs to be updated: run \`make lock\` after" \
		"a change of pyproject.toml. Packages of your own jobs are named in jobs/requirements.txt." >&2; exit 1; }
	@$(UV) export --frozen --all-groups --no-hashes --quiet --output-file .venv/locked.txt
	@$(UV) pip install --quiet --python $(PY) --constraint .venv/locked.txt --requirement jobs/requirements.txt || { \
		echo "jobs/requirements.txt cannot be installed beside the versions of uv.lock." >&2; exit 1; }
	@touch $@

$(UV): | $(PY)
	@echo "Getting uv, which installs the rest"
	@$(PY) -m venv .venv/uv
	@.venv/uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.13,<0.14'

$(PY):
	@test -n "$(PYTHON)" || { echo "Esteira needs Python 3.11, 3.12 or 3.13, and found $$(python3 -V 2>&1)." \
		"Install one, or say where it is: make run PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c "$(FITS)" || { echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13: it is $$($(PYTHON) -V 2>&1)." \
		"Say where one is: make run PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments." \
		"On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Making .venv with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv --without-pip .venv
