"""Pure values; nothing here does I/O or imports anything heavier than the standard library.

lsn          PostgreSQL's log sequence numbers, as integers and as text
position     the one total order of a source's changes, and the offset token that spells it
types        what a column's values are, independent of PostgreSQL, Arrow and Snowflake
table        a table's name and shape as the reader tells it to the actors
names        slots, channels, tables of the system itself
naming       what tables and columns are called at a destination
pipeline     sources, destinations and pipelines as configured
parking      pipelines that stream apart from the others of their source
selection    which tables a pipeline takes, and what becomes of single columns
apply_policy how a table's change log becomes its current table
progress     received >= accepted >= durable >= confirmed, which only rise
wal          how much WAL slots keep, and where that goes
cost         what loading costs in Snowflake, estimated
latency      how long rows were under way, from a histogram
tenure       which sources are a supervisor's to run, and until when
burial       whether a row goes to the dead letter without being tried
child        a child as people see it
dead_rows    which dead rows are meant, when people name some
finding      what `doctor` finds
copy_state   how far the copy of a table has come
trace        what follows a batch from process to process
verified     what a verification finds, and what is kept of it
table_state  the life of a table: INIT -> DATASYNC -> FINISHEDCOPY -> CATCHUP -> READY, ERRORED beside
"""
