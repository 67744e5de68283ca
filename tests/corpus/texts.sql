-- Texts: what looks like something else, what is invisible, what is long; bytes; lengths and padding.
create table texts (
    id serial primary key, t text, v varchar(12), v0 varchar, c char(5), c1 char, n name, ch "char", bin bytea, u uuid, collated text collate "C"
);
insert into texts (t) values (''), (' '), ('   '), (null), ('\N'), ('"\N"'), ('NULL'), ('null'), ('"'), ('""'), (''''), ('a"b'), ('a,b'), ('a;b'), ('\'), ('\\'), ('\"'), ('\x00'), ('\u0041'), ('{}'), ('[1,2]'),
    ('t'), ('f'), ('0'), ('-0'), ('NaN'), ('1e5'), (' leading'), ('trailing '), (e'\t'), (e'a\tb'), (e'\n'), (e'\r'), (e'\r\n'), (e'a\nb'), (e'a\rb'), (e'a\r\nb'), (e'\n\n\n'), (e'"\n"'),
    (e'\x01\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f'), (e'\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f'), (u&'\0080\009f\00a0\00ad'), (u&'\2028\2029\feff\200b\200d\202e'),
    ('é'), (u&'e\0301'), (u&'\0301'), ('中文'), ('😀👨‍👩‍👧'), (u&'\+01f600\+10fffd\fffe\ffff'), ('ﷺ'), ('İıſß'), ('--'), ('$$'), ('/* */'), ('</script>'), ('%s {0}'), ('\.'), ('#'), ('""""'), ('","'), ('a""b');
insert into texts (t) values (repeat('x', 10000)), (repeat(e'"\\\n', 30000)), (repeat('é😀', 50000)), (repeat(' ', 3000));
insert into texts (v) values (''), ('twelve chars'), ('  pad  '), (null);
insert into texts (v0) values (''), (repeat('long ', 100));
insert into texts (c) values (''), ('a'), ('abcde'), ('  b'), ('é'), (null);
insert into texts (c1) values (''), ('x'), ('"'), (null);
insert into texts (n) values (''), ('pg_class'), (repeat('n', 63)), ('Mixed "Name"'), (null);
insert into texts (ch) values ('a'), (''), ('"'), (','), ('\'), ('\351'), (null);
insert into texts (bin) values (''), ('\x00'), ('\xff'), ('\x5c78'), ('\x22'), ('\x0a0d09'), (decode(repeat('00ff10', 10000), 'hex')), ('\x01'), ('\x0102'), ('\x010203'), ('\x01020304'), (null);
insert into texts (u) values ('00000000-0000-0000-0000-000000000000'), ('ffffffff-ffff-ffff-ffff-ffffffffffff'), ('{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}'), (null);
insert into texts (collated) values ('ä'), ('Z'), (null);
