"""The flywheel as Dagster software-defined assets."""
