"""Runs seen from outside, while they go on: `simpo watch`.

discovery  which run directories there are, and whether their processes live
tail       the rows that were appended to a CSV file since it was last looked at
follow     one run: what changed, its speed, its returns
table      several runs in a terminal
server     several runs on a local web page, by server-sent events

Everything comes from the files of run directories; nothing is ever written there, and
no JAX is loaded.
"""
