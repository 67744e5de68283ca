"""Forks, waits, restarts. One thread for ever; no Arrow, no SDK, no HTTP, no database driver.

spec        what a child is: name, kind, entry point, what it gets
births      how children come to be, and how one that runs is seen from here
nursery     a process that has imported what children work with, and forks them
spawn       what a child does before its own code runs
orphans     what is owed to processes whose parent has died
post        one name that a child fills, over all its restarts
intensity   how often a child may be restarted, and how long to wait before it
breaker     closed, open, half-open
decide      what is wanted against what runs: start, stop, restart, copy (pure)
copying     copies that wait for a worker
kills       whom the supervisor kills: silent, overdue, fenced
shortage    whether a child died for want of memory
signals     signals as bytes on a socket
notify      systemd's READY, WATCHDOG and STOPPING
supervisor  the loop
"""
