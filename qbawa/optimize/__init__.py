"""Stage 5, better strategies out of pairs: champions, and children with the best answers as examples. Door: `stage.py`."""
