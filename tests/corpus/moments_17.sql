-- PostgreSQL 17 and newer know infinite intervals.
create table endless (id serial primary key, i interval, r tsrange);
insert into endless (i, r) values ('infinity', '[-infinity,infinity]'), ('-infinity', '(,)'), (null, null);
