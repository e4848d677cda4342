"""Graphs: read from files, names or arrays, given stable ids, indexed by their known answers, and cut into batches."""
