"""Strategies: ways to answer one step. `programs` runs them, `grid` expands what qbawa.yaml declares, `repository` keeps them."""
