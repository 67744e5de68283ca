-- Numbers: every width, its ends, its special values.
create table numbers (
    id serial primary key, i2 smallint, i4 integer, i8 bigint, o oid, f4 real, f8 double precision,
    n12_2 numeric(12,2), n38 numeric(38), n38_37 numeric(38,37), n38_38 numeric(38,38), n1 numeric(1), n39 numeric(39), n1000 numeric(1000,500), n numeric,
    cash money, flag boolean
);
insert into numbers (i2) values (-32768), (-1), (0), (1), (32767), (null);
insert into numbers (i4) values (-2147483648), (-1), (0), (2147483647), (null);
insert into numbers (i8) values (-9223372036854775808), (-1), (0), (9007199254740993), (9223372036854775807), (null);
insert into numbers (o) values (0), (2147483648), (4294967295), (null);
insert into numbers (f4) values (0), ('-0'), (0.1), (-1.5), (1e-45), (1.17549435e-38), (3.4028235e38), (16777217), (8388608.5), ('NaN'), ('Infinity'), ('-Infinity'), (null);
insert into numbers (f8) values (0), ('-0'), (0.1), (1.0/3), (5e-324), (2.2250738585072014e-308), (1.7976931348623157e308), (9007199254740993), (1e15), (1e16), (1e21),
    (1e22), (1e23), (123456789012345680), (1e-5), (1e-7), ('NaN'), ('Infinity'), ('-Infinity'), (null);
insert into numbers (n12_2) values (0), (-0.01), (0.005), (9999999999.99), (-9999999999.99), ('NaN'), (1e3), (null);
insert into numbers (n38) values (99999999999999999999999999999999999999), (-99999999999999999999999999999999999999), (0), ('NaN'), (null);
insert into numbers (n38_37) values (9.9999999999999999999999999999999999999), (-0.0000000000000000000000000000000000001), (0), ('NaN');
insert into numbers (n38_38) values (0.99999999999999999999999999999999999999), (-0.00000000000000000000000000000000000001), (0), ('NaN');
insert into numbers (n1) values (9), (-9), (0), ('NaN');
insert into numbers (n39) values (999999999999999999999999999999999999999), (-1), ('NaN');
insert into numbers (n1000) values (repeat('9', 500)::numeric), (('0.' || repeat('0', 499) || '1')::numeric), ('NaN'), (0);
insert into numbers (n) values (0), ('-0'), (0.0), (0.00), (1.10), (-1e-20), (1e40), (('1' || repeat('0', 131071))::numeric), (('0.' || repeat('0', 16382) || '1')::numeric),
    ('NaN'), ('Infinity'), ('-Infinity'), (12345678901234567890123456789012345678901234567890.12345678901234567890), (null);
insert into numbers (cash) values (0), (-0.01), (92233720368547758.07), ('-92233720368547758.08'), (1234.5), (null);
insert into numbers (flag) values (true), (false), (null);
