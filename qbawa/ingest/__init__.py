"""Stage 0, recordings: journal segments and foreign logs become rows. Door: `stage.py`; one foreign format a file in formats/."""
