"""Your jobs: one function in a file of this folder is one job type.

1. Make a file here, such as `greetings.py`, and write a function whose first parameter is `ctx: Context`.
2. Annotate its other parameters (`name: str`, `times: int = 3`) and give it one line of docstring: together the form.
3. Put `@job` above it, with options if it needs them: `@job(queue="reports", retries=5, timeout=600)`.
4. Loop with `ctx.each(…)`, write files with `ctx.file(name)`, and return what people should see as the result.
5. Save. `make run` restarts the worker; the type `greetings.function` is on the page, in the API and the command line.
"""
