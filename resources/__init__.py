"""Dagster resources: settings plus a method that returns a qbawa object."""

from resources.project import ProjectResource

__all__ = ["ProjectResource"]
