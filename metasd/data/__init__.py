"""Graphs: read from files or by name, given stable ids, indexed by known answers, and batched."""
