-- Scales that PostgreSQL 15 and newer know: left of the point, and more digits after it than there are digits.
create table scales (id serial primary key, hundreds numeric(5,-2), tiny numeric(3,5), far numeric(10,-1000), small numeric(2,1000));
insert into scales (hundreds) values (12345), (-9999900), (0), (149), (150), ('NaN'), (null);
insert into scales (tiny) values (0.00999), (-0.00001), (0), ('NaN');
insert into scales (far) values (('1' || repeat('0', 1005))::numeric), (0);
insert into scales (small) values (('0.' || repeat('0', 998) || '99')::numeric), (0);
