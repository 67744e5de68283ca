"""Forks, waits, restarts. One thread for ever; no Arrow, no SDK, no HTTP, no database driver.

spec        what a child is: name, kind, entry point, what it gets
spawn       the fork, and what a child does before its own code runs
post        one name that a child fills, over all its restarts
intensity   how often a child may be restarted, and how long to wait before it
breaker     closed, open, half-open
decide      desired configuration against what runs: start, stop, restart (pure)
signals     signals as bytes on a socket
notify      systemd's READY, WATCHDOG and STOPPING
supervisor  the loop
"""
