"""Readers and writers: CoNLL columns, JSON lines, PubTator, brat."""
