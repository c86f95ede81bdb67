"""The job types of the benchmark; JOB_PACKAGES names this package."""
