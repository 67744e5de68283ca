"""The reader of a source, and the workers of its first copies.

entry       the process: one life of a reader after the other
beginning   what a source is, and where its stream goes on from, before anything is read
ending      SIGTERM over all lives of the process
process     the loop: frames in, segments out, positions confirmed
stream      the replication connection, never blocking
copyboth    frames from the socket, or through libpq
assembler   transactions in progress (protocol 2) -> plain ones
spool       the frames of one transaction in progress, in memory or on disk
source      what must hold before a stream may start, and where it starts
decode_failure  errors of the walsender itself (pure)
lineage     after a promotion: does Snowflake hold anything of the history that was lost? (pure)
parking     pipelines that stream apart, from a copy of the slot
slot        what PostgreSQL says of a slot (pure, but for one query)
watch       the source beside the stream: end of WAL, health of the slot
measure     how much WAL the source keeps for our slots
heartbeat   a small WAL record in a quiet source
aside       statements in a thread of their own
intake      one read at a time: assembler and batcher
batcher     frames gather until a batch is full or old
frame       the frames of a batch in one buffer, read by column of bytes
pgoutput    frames -> tables' rows: transactions, ordinals, versions
order       the order that a stream keeps, checked
tuples      the tuples of changes, column by column
rows        row frames as numbers, and the Arrow batch made of them
values      one column of many tuples
columns     PostgreSQL's text -> typed Arrow arrays
transfer    whether values travel as text or binary
binary      PostgreSQL's binary values -> the same arrays
pgtypes     PostgreSQL types -> value types
relations   Relation messages -> tables, by version
catalog     what the catalog knows of a table
published   what the publications publish, without waiting for anybody
attnums     which column is which (pure)
change      what a change of shape means: followed, or copied again (pure)
membership  how a table is published, and what a change of that means (pure, but for one query)
sight       the catalog now, as far as it is published
storage     what the stream does not tell: rows rewritten, partitions that come and go
batch       what the decoder makes of a batch
traces      the first span of a batch that is followed
recall      a state store that was lost, filled again
report      what a reader tells of itself
rounds      what is looked at every few seconds: rewrites, publications, requests of people
stored      the states of the tables, kept
roster      all tables of the source in all its pipelines
pace        work that grows with the number of tables, kept to a share of the time
together    when the tables of a pipeline become visible together, and how far (pure)
follower    one table in one pipeline: what it needs now (pure)
followers
admission   how a table comes into a pipeline
masks       masked columns: shapes and batches as a pipeline shows them (pure)
removal     cleaning up after a pipeline that was deleted
doctor      what `doctor` looks at in a source
doctor_tables  ... and in its tables
laggards    which pipelines hold the others back (pure)
frontier    which positions are complete (pure)
retired     handles that end
pieces      batches cut into segments (pure)
outlets     what a publisher knows of a handle, and how its rows are sent again
shelf       where the segments are
trial       which row kills its actor (pure)
breakers    of destinations: one table knocks, the others wait (pure)
interest    what a selector looks at
publisher   segments to the actors, kept until their rows are durable
copy        the copy worker: tables of one pipeline at one snapshot
snapshot    the source at one moment, its tables locked and looked at
ranges      which pages of a table are still to be copied, and why that is sound (pure)
copyout     the rows of a COPY, many at a time
lane        threads that read ranges
landing     pieces of copies to their channels
tablecopy   the books of one table's copy (pure)
csv         rows of a copy as text -> change-log batches
copytuples  rows of a copy in binary, read by column
"""
