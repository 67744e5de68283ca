"""Compares source and target at one LSN.

check          a round over the tables of a pipeline: freeze, snapshot, wait, catch up, compare
frozen         the target as it was, brought to the snapshot's LSN in a temporary clone
texts          one text for equal values: as SQL of the source, as SQL of the target, and what is left to do here
fingerprints   rows to 64-bit fingerprints, by column
ranges         ranges of an integer key, and the condition that asks for some of them
held           rows of both sides that are held to find which differ, in bounded memory
comparing      two passes over both sides: sums by bucket and range, then the rows of those that differ
repair         ranges that differ copied again, beside the running pipeline
sides          rows of both sides as such texts, piece by piece
"""
