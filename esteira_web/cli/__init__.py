"""`manage.py jobs` for people and scripts: one module a word, each with its `arguments` and its `run`.

Data goes to stdout, messages to stderr. `--json` prints one JSON object a line. Like the pages and the API, it reads
models and changes jobs only through `esteira`.
"""
