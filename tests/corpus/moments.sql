-- Dates and times: the ends of the calendar, the ends of the day, what is no moment at all.
create table moments (
    id serial primary key, d date, ts timestamp, ts0 timestamp(0), ts3 timestamp(3), tz timestamptz, tz0 timestamptz(0), t time, t0 time(0), ttz timetz, i interval, ids interval day to second(3), iy interval year to month
);
insert into moments (d) values ('2024-02-29'), ('1970-01-01'), ('1969-12-31'), ('0001-01-01'), ('9999-12-31'), ('10000-01-01'), ('5874897-12-31'), ('0001-12-31 BC'), ('4713-11-24 BC'), ('0044-03-15 BC'),
    ('1582-10-10'), ('1500-02-28'), ('0999-01-01'), ('infinity'), ('-infinity'), (null);
insert into moments (ts) values ('2024-02-29 23:59:59.999999'), ('1970-01-01'), ('1969-12-31 23:59:59.999999'), ('0001-01-01'), ('9999-12-31 23:59:59.999999'), ('10000-01-01'), ('294276-12-31 23:59:59.999999'),
    ('0001-12-31 23:59:59.5 BC'), ('4713-01-01 BC'), ('2024-01-01 24:00:00'), ('2024-06-30 23:59:60'), ('2024-01-01 00:00:00.000001'), ('2024-01-01 00:00:00.1'), ('1900-01-01 00:00:00.25'), ('infinity'), ('-infinity'), (null);
insert into moments (ts0) values ('2024-01-01 00:00:00.5'), ('9999-12-31 23:59:59.5'), (null);
insert into moments (ts3) values ('2024-01-01 00:00:00.1239'), ('infinity');
insert into moments (tz) values ('2024-02-29 23:59:59.999999+00'), ('2024-03-31 02:30:00 Europe/Berlin'), ('2024-01-01 00:00:00+15:59:59'), ('2024-01-01 00:00:00-15:59:59'), ('0001-01-01 00:00:00+00'),
    ('0001-01-01 00:00:00+01'), ('9999-12-31 23:59:59.999999+00'), ('9999-12-31 23:59:59.999999-01'), ('294276-12-31 23:59:59.999999+00'), ('4714-11-24 00:00:00+00 BC'), ('1883-11-18 12:03:57 America/New_York'),
    ('infinity'), ('-infinity'), (null);
insert into moments (tz0) values ('2024-01-01 00:00:00.5+02'), ('-infinity');
insert into moments (t) values ('00:00'), ('24:00'), ('23:59:59.999999'), ('23:59:60'), ('12:00:00.5'), (null);
insert into moments (t0) values ('23:59:59.9'), ('24:00:00');
insert into moments (ttz) values ('00:00+00'), ('24:00-15:59'), ('23:59:59.999999+15:59:59'), ('12:00-05:30'), (null);
insert into moments (i) values ('0'), ('1 year 2 mons 3 days 04:05:06.789'), ('-1 year -2 mons +3 days -04:05:06.789'), ('178000000 years'), ('-178000000 years'), ('1 microsecond'), ('100:00:00'), ('1 mon -1 day'), ('-00:00:00.000001'), (null);
insert into moments (ids) values ('3 days 04:05:06.7891'), ('-1 day');
insert into moments (iy) values ('3 years 2 mons'), (null);
