"""The command line.

main       the commands
start      a supervisor in this process: metrics directory, logs, exit code
run        `run`: with the configured parts, or with embedded ones and the demo shop
demo       `demo`: everything, time-boxed, with kills, compared at the end
compare    source against target, row by row, by readers that are not ours
status     `status`: pipelines, tables, states, lag
"""
