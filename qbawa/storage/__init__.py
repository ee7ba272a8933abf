"""What is kept, and where: journal segments, Delta tables, the DuckDB catalog. No other package touches a disk or a lock."""
