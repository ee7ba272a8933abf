"""Stage 3: who meets whom, what verdicts come to, how strong strategies are, how far judges can be trusted. Door: `stage.py`."""
