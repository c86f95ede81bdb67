"""The whole stack without containers, as `make run` starts it: `python -m project.local`.

`options` reads what the caller chose, `home` keeps the folder `.esteira/`, `parts` says what runs,
`supervise` keeps one part running, `watch` notices saved job files, `stack` tells the story.
"""
