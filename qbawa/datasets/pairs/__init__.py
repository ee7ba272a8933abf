"""Pairs out of matches, each with its probability and where it comes from."""
