"""Starting what the flywheel runs on: PostgreSQL and Dagster."""
