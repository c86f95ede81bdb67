"""Jobs in a project's own tests: they run in the test's process, on its connection, in its transaction.

The fixture `esteira_jobs` of the pytest plugin (`esteira.testing.plugin`) gives `esteira.testing.jobs.TestJobs`. No
Redis and no worker are needed. The code that claims, runs and finishes a job is that of a worker; time limits,
heartbeats and the restoring of a process between two jobs are not part of it. pytest reads this package before Django
is set up, so it imports nothing.
"""
