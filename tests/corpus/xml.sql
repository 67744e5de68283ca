-- XML, where the server has libxml.
create table papers (id serial primary key, x xml, xs xml[]);
insert into papers (x) values ('<a/>'), ('<a b="c">t &amp; u</a>'), (''), (e'<a>\n</a>'), ('plain text'), ('<?xml version="1.0"?><r><!-- c --><![CDATA[<x>]]></r>'), (null);
insert into papers (xs) values (array['<a b="c"/>'::xml, null]), ('{}');
