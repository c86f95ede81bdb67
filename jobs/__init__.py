"""Your jobs: one function in a file of this folder is one job type.

1. Make a file here, such as `greetings.py`, and write a function whose first parameter is `ctx: Context`.
2. Annotate its other parameters (`name: str`, `times: int = 3`) and add a docstring: the form is made from both.
3. Put `@job` above it, with options if it needs them: `@job(queue="reports", retries=5, timeout=600)`.
4. Loop with `ctx.each(…)`, write files with `ctx.file(name)`, and return the result to show.
5. Save. `make run` restarts the worker; the type `greetings.function` is on the page, in the API and the command line.
"""
