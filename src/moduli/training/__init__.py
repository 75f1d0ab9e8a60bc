"""Heavy-tailed noise, what can be pruned after it, and many such runs: `run` does a list of `Job`."""

from .job_store import Job as Job
from .job_store import run as run
