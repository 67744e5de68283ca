-- The least that ETL Stream needs of a source. Replace ETL_READER, the password, SHOP (database) and PUBLIC (schema; repeat its part for each), and
-- run it in that database as the owner of the tables. Nothing is written to the source: the heartbeat is a message in the WAL, slots are made with REPLICATION.

CREATE ROLE ETL_READER LOGIN REPLICATION PASSWORD 'choose one';
GRANT CONNECT ON DATABASE SHOP TO ETL_READER;

GRANT USAGE ON SCHEMA PUBLIC TO ETL_READER;
GRANT SELECT ON ALL TABLES IN SCHEMA PUBLIC TO ETL_READER;
ALTER DEFAULT PRIVILEGES IN SCHEMA PUBLIC GRANT SELECT ON TABLES TO ETL_READER;

-- Where they are used:
-- row security             ALTER ROLE ETL_READER BYPASSRLS;
-- a standby as the source  GRANT EXECUTE ON FUNCTION pg_log_standby_snapshot() TO ETL_READER;    -- on the primary, for the role of primary_url
-- publications by the API  GRANT CREATE ON DATABASE SHOP TO ETL_READER;    -- and ALTER TABLE ... OWNER TO ETL_READER, ALTER PUBLICATION ... OWNER TO ETL_READER
--                          -- (those of all tables or of schemas only a superuser makes)
