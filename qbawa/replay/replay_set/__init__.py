"""Which requests are replayed: a few that stand for all traffic, the same ones as traffic grows."""
