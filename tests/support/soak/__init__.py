"""The soak: a random workload under a seeded stream of faults, and what has to be true afterwards.

world     the servers, the edges between them, the supervisor, and how each is started again
workload  sessions that change rows and tables all the time, decided by the seed
plan      which fault comes next: a function of the seed
faults    how each fault begins and ends
markers   how long a row takes from a source to its target
verdict   what has to be true at the end
run       faults one after the other, the time that each recovery takes, the report
"""
