"""The command line.

main       the commands
start      a supervisor in this process: metrics directory, logs, exit code
run        `run` without a config database: embedded parts and the demo shop
demo       `demo`: everything, time-boxed, with kills, compared at the end
query      `sql`: one statement at the configured Snowflake
dead_letter  `dead-letter list|replay|drop`: rows that Snowflake did not take
running    where the embedded parts of a directory are, for a second terminal
compare    source against target, row by row, by readers that are not ours
resync     `resync`: tables are copied again
retry      `retry`: tables in trouble are tried again now
verify     `verify`: source and target at one LSN
status     `status`: pipelines, tables, states, lag; once, as they change, or as JSON
api        `api`, `api-key`: the REST API alone, and who may use it
copies     first copies in it: done, pace, time left
migrations  `migrate`: schemas forward, back, shown
secrets    `rotate-secrets`: everything under the key of now
doctor     `doctor`: what a person may want to act on
"""
