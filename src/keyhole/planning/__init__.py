"""From a configuration to jobs: what is asked for, what cannot be run, what code a job runs. Never torch."""
