"""Benchmarks against other libraries: `make bench`. They print figures and judge nothing."""
