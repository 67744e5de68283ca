-- The least that ETL Stream needs of the config database. Replace ETL_OWNER, the password and ETL_CONFIG (database), and run it as the database's owner.
-- The schemas app and etl and everything in them the program makes and owns. (With ETL_DATABASE_URL, the same in that database for schema etl.)

CREATE ROLE ETL_OWNER LOGIN PASSWORD 'choose one';
GRANT CONNECT, CREATE ON DATABASE ETL_CONFIG TO ETL_OWNER;
