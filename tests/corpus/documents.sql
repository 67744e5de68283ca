-- Documents: JSON as written and as stored, search vectors and queries.
create table documents (id serial primary key, j json, b jsonb, tv tsvector, tq tsquery, jp jsonpath);
insert into documents (b) values ('null'), ('{}'), ('[]'), ('""'), ('"null"'), ('true'), ('0'), ('-0'), ('-0.0'), ('1.0'), ('1.50'), ('1e2'), ('1e-7'), ('{"a": null}'), ('[null]'), ('[[[[[]]]]]'), ('{"a":1,"a":2}'),
    ('{"": ""}'), ('{"b": 1, "aa": 2, "a": 3}'), ('12345678901234567890123456789012345678'), ('123456789012345678901234567890123456789'), ('{"n": 1234567890123456789012345678901234567890.5}'),
    ('1e400'), ('[1e-400]'), ('0.1234567890123456789012345678901234567'), ('0.12345678901234567890123456789012345678'), ('1.7976931348623157e308'), ('{"text 12345678901234567890123456789012345678901234567890": 1}'),
    ('"12345678901234567890123456789012345678901234567890"'), ('["\"", 12345678901234567890123456789012345678901234567890]'), ('["\\", "1e5"]'), ('"\u00e9\u4e2d\ud83d\ude00"'), ('"\u0001\u001f\u007f\u2028"'),
    ('"a\nb\tc\r\"\\\/"'), ('{"quote\"key": [1, {"deep": [true, false, null]}]}'), (null), (to_jsonb(repeat('x', 100000))), ((repeat('[', 900) || repeat(']', 900))::jsonb),
    ((repeat('{"k":', 500) || '1' || repeat('}', 500))::jsonb), ((select jsonb_object_agg('k' || g, g) from generate_series(1, 2000) g));
insert into documents (j) values ('null'), (' null '), (e'\n{\r\n  "a" : [ 1 ,\t2 ]\n}\n'), ('{"a":1,"a":2}'), ('{"a":{"x":1,"x":2},"b":[{"y":1},{"y":2}]}'), ('1E5'), ('1e+5'), ('-0'), ('-0.0e-0'), ('1e400'), ('-1e-400'), ('1.5e300'), ('1.23456789012345678e5'), ('100000000000000000000000000000000000000000'),
    ('[1.10]'), ('"\u0000"'), ('"a\u0000b"'), ('"\ud83d\ude00"'), ('"\ud83d"'), ('{"\u0061": 1, "a": 2}'), ('"\/"'), (null);
insert into documents (tv) values (''), ('a fat cat'), ('''quoted word'':1A,2B ''it''''s'':3'), (null);
insert into documents (tq) values (''), ('fat & (rat | !cat)'), ('a <-> b:*A'), (null);
insert into documents (jp) values ('$'), ('strict $.a[*] ? (@.b > 1)'), (null);
