"""`manage.py jobs` for people and scripts. Each subcommand is one module with an `arguments` and a `run`.

Data goes to stdout, messages to stderr. `--json` prints one JSON object per line. Like the pages and the API, the
command reads models and changes jobs only through `esteira`.
"""
