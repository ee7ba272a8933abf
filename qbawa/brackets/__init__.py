"""Tournaments played for real: answers from the matrix, verdicts from the jury, both kept in the lake."""
