-- Arrays of nearly everything: empty, of NULLs, of more dimensions, with bounds of their own.
create type colour as enum ('red', 'light "blue"');
create type pair as (x integer, y text);
create domain small as smallint;
create table arrays (
    id serial primary key, i integer[], i8 bigint[], f double precision[], n numeric[], n2 numeric(5,2)[], b boolean[], t text[], v varchar(5)[], c char(3)[], bin bytea[], d date[], ts timestamp[], tz timestamptz[],
    ti time[], iv interval[], u uuid[], j json[], jb jsonb[], e colour[], dom small[], p pair[], r int4range[], ip inet[], pt point[], bx box[], bits varbit[]
);
insert into arrays (i) values ('{}'), ('{1}'), ('{1,NULL,-3}'), ('{NULL}'), ('{{1,2},{3,NULL}}'), ('{{{1},{2}},{{3},{4}}}'), ('[0:2]={1,2,3}'), ('[-2:-1][3:4]={{1,2},{3,4}}'), (null), (array(select generate_series(1, 3000)));
insert into arrays (i8, f, n) values ('{9223372036854775807}', '{NaN,Infinity,-0,1e-300,0.1}', '{NaN,Infinity,1.10,12345678901234567890123456789012345678901234567890}');
insert into arrays (n2, b) values ('{1.5,NaN,NULL}', '{t,f,NULL}');
insert into arrays (t) values ('{}'), ('{""}'), ('{NULL,"NULL",null}'), ('{"a b","c,d","{e}","\"f\"","\\g"}'), (array[e'line\nbreak', e'tab\t', 'é😀', '\N']), ('{{a,b},{c,d}}');
insert into arrays (v, c, bin) values ('{abcde}', '{a,"",NULL}', array['\x00ff'::bytea, '', null]);
insert into arrays (d, ts, tz) values ('{infinity,-infinity,"0044-03-15 BC",10000-01-01,NULL}', '{"2024-01-01 00:00:00.5",infinity}', '{"2024-01-01 00:00+02",-infinity}');
insert into arrays (ti, iv, u) values ('{24:00,00:00:00.000001}', '{"1 mon","-00:00:01"}', '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,NULL}');
insert into arrays (j, jb) values (array['{"a": 1}'::json, 'null', null], array['{"a":1e40}'::jsonb, 'null', null]);
insert into arrays (e, dom, p) values ('{red,"light \"blue\""}', '{1,NULL}', array[row(1, 'a "b"')::pair, row(null, null)::pair, null]);
insert into arrays (r, ip, pt, bx, bits) values ('{"[1,2)",empty}', '{10.0.0.1,::1/64}', '{"(1,2)"}', '{(1,1),(0,0);(2,2),(1,1)}', array[b'', b'101', null]);
