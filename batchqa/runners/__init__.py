"""Where a job runs: shards on any scheduler. A runner shares out parts of a job and does nothing else."""
