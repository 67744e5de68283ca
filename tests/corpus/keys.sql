-- Keys that a typed column can't hold: each its own row.
create table keys (id serial, until timestamptz, day date, at timestamp, price numeric(6,2), note text, primary key (until, day, at, price, id));
insert into keys (until, day, at, price, note) values ('infinity', '2024-01-01', '2024-01-01', 1, 'a'), ('-infinity', '2024-01-01', '2024-01-01', 1, 'b'), ('2024-01-01 00:00:00.000001+00', '2024-01-01', '2024-01-01', 1, 'c'),
    ('2024-01-01 00:00:00.000002+00', 'infinity', '0044-03-15 BC', 'NaN', 'd'), ('2024-01-01', '10000-01-01', 'infinity', 'NaN', 'e'), ('0001-01-01 00:00:00+00', '0001-01-01', '0001-01-01', 0, 'f'),
    ('infinity', 'infinity', 'infinity', 'NaN', 'g'), ('infinity', 'infinity', 'infinity', 0, 'h');
create table until (until timestamptz primary key, id serial, note text);
insert into until (until, note) values ('infinity', 'a'), ('-infinity', 'b'), ('10000-01-01', 'c'), ('0001-01-01 00:00:00+00', 'd'), ('2024-01-01', 'e');
create table price (price numeric(6,2) primary key, id serial, note text);
insert into price (price, note) values ('NaN', 'a'), (0, 'b'), (1.5, 'c');
create table document (doc jsonb primary key, id serial, note text);
insert into document (doc, note) values ('null', 'a'), ('0', 'b'), ('{"a": 1}', 'c'), ('"null"', 'd');
