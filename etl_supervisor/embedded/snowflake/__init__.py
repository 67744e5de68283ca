"""A Snowflake on this machine: for people without an account, and for every test.

One process, one port (TLS), one data directory:

server        the web application and its clean end
foreground    serves in this process, with temporary files of its own
launch        starts it as a process of its own
certificates  a throw-away authority and the server's certificate
warehouse     DuckDB files, one per Snowflake database; one statement at a time
gaps          where fakesnow's ways lose what we need
passes        its translation of statements, without the passes that have nothing to do
templates     statements that differ in names and literals only are translated once
answers       what DuckDB need not be asked for: status lines, counts, results that are known
sql           the connector's protocol, over fakesnow
describe      what every open of a table asks, without fakesnow
statements    statements that fakesnow does not know: left out, rewritten, or run here
scripting     Snowflake Scripting, as far as an apply block needs it
tasks         streams, tasks that run on their schedule, dynamic tables
streaming     Snowpipe Streaming's protocol, for the real SDK
channels      channels: continuation tokens, fencing, what is pending and what is committed
counting      what is appended is checked and counted, and not stored
loading       NDJSON into a table, with Snowflake's row errors
quoting       names and strings as SQL writes them
stages        internal stages: PUT, GET, LIST, REMOVE
parquetload   COPY INTO from Parquet files, with load metadata
pipes         Snowpipe: pipes over files, and the requests of snowflake-ingest
users         users, their public keys and roles
errortables   rows that loads have refused, of tables with ERROR_LOGGING
databases     DROP DATABASE
shows         SHOW PIPES, TASKS, STREAMS, CHANNELS
grants        what roles may do with databases, schemas and tables
stagefiles    the stage to which the SDK uploads large flushes
"""
