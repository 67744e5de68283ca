"""Compares source and target at one LSN.

check          a round over the tables of a pipeline: freeze, snapshot, wait, catch up, compare
frozen         the target as it was, brought to the snapshot's LSN in a temporary clone
texts          one text for equal values: as SQL of the source, as SQL of the target, and what is left to do here
fingerprints   rows to 64-bit fingerprints, by column
comparing      two passes over both sides: sums by bucket, then the rows of buckets that differ
sides          rows of both sides as such texts, piece by piece
"""
