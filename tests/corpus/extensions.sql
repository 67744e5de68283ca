-- Types of extensions: PostgreSQL's own contrib, and pgvector. They travel as the text that the type prints.
create extension hstore;
create extension ltree;
create extension citext;
create extension cube;
create extension isn;
create extension seg;
create extension intarray;
create extension vector;
create table extensions (
    id serial primary key, h hstore, l ltree, lq lquery, c citext, cu cube, book isbn13, s seg, qi query_int, v vector(3), vv vector, hv halfvec(2), sv sparsevec(5), bv bit(4), ha hstore[], ca citext[]
);
insert into extensions (h) values (''), ('a=>1'), ('"a b"=>"c \"d\"", n=>NULL, e=>""'), (e'nl=>"x\ny"'), (null);
insert into extensions (l, lq) values ('', '*'), ('Top.Science.Astronomy', '*{1,2}.a|b@.!c*'), ('a_1', '!x'), (null, null);
insert into extensions (c) values (''), ('MiXed'), ('É'), (null);
insert into extensions (cu, book, s, qi) values ('(1,2),(3,4)', '978-0-393-04002-9', '1.0 .. 2.50', '1&(2|!3)'), ('(0)', null, '~1e-5', '7'), (null, null, null, null);
insert into extensions (v, vv, hv, sv, bv) values ('[1,2,3]', '[0.1]', '[1,-0.5]', '{1:1.5,3:-2}/5', b'1010'), ('[-0,1e-10,3e38]', '[1,2,3,4,5]', '[0,65504]', '{}/5', b'0000'), (null, null, null, null, null);
insert into extensions (ha, ca) values (array['a=>1'::hstore, null], array['A'::citext, 'b,c']), (null, null);
