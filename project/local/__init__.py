"""The whole stack without containers, as `make run` starts it: `python -m project.local`.

`options` reads the options of the caller, `home` manages the folder `.esteira/`, `parts` declares the processes,
`supervise` keeps one process running, `watch` detects saved job files, and `stack` connects all of them.
"""
