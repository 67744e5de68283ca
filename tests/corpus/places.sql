-- Addresses, bits, shapes, and what the server says of itself.
create table places (
    id serial primary key, ip inet, net cidr, mac macaddr, mac8 macaddr8, b1 bit, b8 bit(8), vb varbit, vb4 varbit(4), pt point, li line, sg lseg, bx box, pa path, po polygon, ci circle,
    wal pg_lsn, x xid, x8 xid8, c cid, ct tid, snap pg_snapshot, cls regclass, typ regtype, proc regprocedure, vec int2vector, ovec oidvector
);
insert into places (ip) values ('0.0.0.0'), ('192.168.0.1/24'), ('255.255.255.255/32'), ('::'), ('::ffff:1.2.3.4'), ('2001:db8::1/64'), (null);
insert into places (net) values ('10.0.0.0/8'), ('0.0.0.0/0'), ('::/0'), ('1.2.3.4/32'), (null);
insert into places (mac, mac8) values ('08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05'), ('ff-ff-ff-ff-ff-ff', '08:00:2b:01:02:03'), (null, null);
insert into places (b1, b8, vb, vb4) values (b'1', b'00000000', b'', b''), (b'0', b'11111111', b'1010101010101', b'1111'), (null, null, null, null), (null, null, repeat('01', 5000)::varbit, null);
insert into places (pt) values ('(0,0)'), ('(-0,1e-300)'), ('(NaN,Infinity)'), ('(0.1,-1.7976931348623157e308)'), (null);
insert into places (li, sg, bx) values ('{1,-1,0}', '[(0,0),(1,1)]', '(1,1),(0,0)'), ('{0,-1,1e10}', '[(-1,0.1),(2,3)]', '(0,0),(-1,-1)'), (null, null, null);
insert into places (pa, po, ci) values ('[(0,0),(1,1),(2,0)]', '((0,0),(1,1),(2,0))', '<(0,0),1>'), ('((0,0),(1,1))', '((0.1,0.2))', '<(1.5,-2.5),0>'), (null, null, null);
insert into places (wal, x, x8) values ('0/0', '0', '0'), ('FFFFFFFF/FFFFFFFF', '4294967295', '18446744073709551615'), ('16/B374D848', '3', '4294967296'), (null, null, null);
insert into places (c, ct, snap) values ('0', '(0,0)', '1:1:'), ('4294967295', '(4294967295,65535)', '10:20:10,14,15'), (null, null, null);
insert into places (cls, typ, proc, vec, ovec) values ('pg_class', 'timestamp with time zone', 'now()', '1 2 3', '16 17'), ('"places"', 'integer[]', 'abs(integer)', '', ''), (null, null, null, null, null);
