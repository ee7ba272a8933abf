"""The lake: one Delta table per thing, the single truth about what has been done."""
