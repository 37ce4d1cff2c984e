"""What this process is: its launcher, its replicas, its threads, its forks."""
