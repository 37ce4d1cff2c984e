"""This process: its launcher, its replicas, its threads, its forks."""
