"""The home that a Dagster process works on."""

from pathlib import Path

from dagster import ConfigurableResource

from qbawa.project import Home, Project, open_project


class ProjectResource(ConfigurableResource):
    """Opens the user's project. qbawa.yaml is read each time, so an edit counts from the next run on."""

    home: str = ""
    """Folder of the home; default: QBAWA_HOME."""

    def open(self) -> Project:
        return open_project(self.location)

    @property
    def location(self) -> Home:
        return Home(Path(self.home).resolve()) if self.home else Home.find()
