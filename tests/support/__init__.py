"""The tools of the tests: servers of their own, waits, and whole stacks of processes to break."""
