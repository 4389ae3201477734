"""Tests of the course; `make test` runs them."""
