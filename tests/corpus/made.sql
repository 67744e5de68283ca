-- Types that a schema makes: enums, domains (also of domains), composites, ranges.
create type mood as enum ('sad', 'so so', 'with "quotes"', 'Ünïcode', '');
create domain positive as integer check (value > 0);
create domain price as numeric(10,3);
create domain dear_price as price check (value > 100);
create domain moments_of as timestamptz;
create domain document as jsonb;
create domain raw_bytes as bytea;
create domain words as text[];
create type address as (street text, number integer, geo point, tags text[]);
create type person as (name text, home address);
create type floatrange as range (subtype = float8);
create table made (
    id serial primary key, m mood, p positive, d price, dd dear_price, dt moments_of, dj document, db raw_bytes, w words, a address, q person,
    ir int4range, br int8range, nr numrange, tr tsrange, zr tstzrange, dr daterange, fr floatrange, im int4multirange, zm tstzmultirange
);
insert into made (m) values ('sad'), ('so so'), ('with "quotes"'), ('Ünïcode'), (''), (null);
insert into made (p, d, dd) values (1, 1.5, 100.001), (2147483647, 'NaN', 'NaN'), (null, null, null);
insert into made (dt, dj, db) values ('infinity', 'null', '\x00'), ('2024-01-01 00:00:00.000001+02', '{"a": 1}', ''), (null, null, null);
insert into made (w) values ('{}'), ('{a,NULL,"NULL","",  "x y"}'), (null);
insert into made (a) values (row('a "b", c', 1, '(1,2)', '{x,"y z"}')), (row(null, null, null, null)), (row('', -1, null, '{}')), (row(e'line\nbreak\\', 0, null, null)), (null);
insert into made (q) values (row('n', row('s', 1, null, null))), (row(null, null));
insert into made (ir, br, nr) values ('[1,5)', '(,)', '(1.5,2.50]'), ('empty', '[-9223372036854775808,)', '[,Infinity)'), ('(,5]', 'empty', 'empty'), (null, null, null);
insert into made (tr, zr, dr) values ('[2024-01-01,2024-01-02)', '[2024-01-01 00:00+02,infinity)', '[2024-01-01,2024-12-31]'), ('(-infinity,)', 'empty', '(,0044-03-15 BC]'), (null, null, null);
insert into made (fr) values ('[0,1]'), ('(-Infinity,NaN)'), ('[-0,)'), (null);
insert into made (im, zm) values ('{}', '{}'), ('{[1,3),[5,7)}', '{[2024-01-01,2024-02-01),[2024-03-01,)}'), (null, null);
