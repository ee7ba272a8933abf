"""Stage 4, QBaWa: question, best answer, worse answer, P(best is better); datasets out of them. Door: `stage.py`."""
