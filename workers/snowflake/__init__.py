"""The Snowflake actor: brings change-log segments into landing tables, and landing tables into targets.

sessions     SQL sessions, lent to one job at a time
solitude    rows that may have killed an actor are tried alone
entry        the process: what it works with, and where it keeps files
process      the loop: mailboxes, timers, and jobs that may block in threads
closing      how channels end
latency      how long rows need into the target
traces       the way of batches that are followed, from shared memory into the target
guest        one publisher's connection
jobs         threads for what may block, per destination
heap         free memory goes back to the kernel
memory       states that a lost state store gets back
desk         one table of one publisher: what is asked, what is under way
views        what of a segment's memory a job works on
questions    when Snowflake is asked again what is committed (pure)
attendance   which desks the loop looks at, and which idle channels it closes
loading      segments on their way: what can be loaded is appended, the rest goes to the dead letter
channel      the books of a channel: committed, appended, durable (pure)
preparing    the tables of a desk in the shape of its rows
opening      the channel of a table, by its pipeline's load path
gathering    when rows that wait become a file (pure)
files        a channel whose rows travel as Parquet files
ledger       which rows are in which file
stage        files of a table in the internal stage, and the COPY that loads them
loaders      from the stage into the landing table: COPY INTO, Snowpipe
parquet      a batch as a file has it
streaming    Snowpipe Streaming through the SDK
shards       several channels of one table as one
sharding     which of them a row takes
held         how much the SDK holds (pure)
inquiry      what a channel has committed, asked without the SDK's cache
ndjson       a batch as the SDK wants it
variants     JSON documents that VARIANT would change
limits       what Snowflake can hold, and the rows beyond it
rejected     the rows that Snowflake refused, found again
dead_letter  where rows go that can't be loaded
failure      what Snowflake refuses -> what to do
tagging      what a statement is for, in its QUERY_TAG
replay       dead rows listed, replayed and dropped, for the command line
doctor       what `doctor` looks at in a destination
privileges   what a role needs, and what it has
connection   SQL connections, and the connector's errors in our words
ddl          the tables of a table as they should be: looked at, made, altered
fresh        a table of which nothing is there, made by one block
inventory    which tables of a landing schema are there, asked once
owner        the watermark row: whose a table is, how far its target is
marks        schemas, the watermarks' table, and what a newer version adds to it
offers       what a policy offers beside them: history, live view, task, dynamic table
reshape      from the shape that is there to the one that should be (pure)
apply        the fenced block that moves a target
together     all tables of a pipeline up to one fence, in one block
moving       what a window does to the tables of a policy, in order
window       landing rows with whole values, as SQL
target       hard and soft MERGE of a table with a key
history      every version of every row
keyless      a target that is a multiset
live         the view of target and change log
task         the block as a Snowflake TASK
dynamic      the current table as a dynamic table
purge        applied rows leave the change log
script       several statements as one block
identifiers  names, quoted
sftypes      value types -> Snowflake types
"""

import sys

# The connector imports Amazon's SDK where it finds it, for logins by Amazon's roles. Ours are by keys: a fifth of an actor's start, and 8 MB.
sys.modules.setdefault("botocore", None)  # type: ignore[arg-type]
