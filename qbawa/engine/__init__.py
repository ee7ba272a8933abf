"""Model calls at the providers' full speed, each paid once. See docs/engine.md."""
