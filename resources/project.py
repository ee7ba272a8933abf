"""The home that a Dagster process works on."""

from contextlib import ExitStack
from pathlib import Path

from dagster import ConfigurableResource, Failure, InitResourceContext
from pydantic import PrivateAttr

from qbawa.config_file import load_config
from qbawa.errors import BusyError
from qbawa.project import Home, Project, open_project
from qbawa.storage.occupancy import in_use


class ProjectResource(ConfigurableResource):
    """Opens the user's project. qbawa.yaml is read each time, so an edit counts from the next run on."""

    home: str = ""
    """Folder of the home; default: QBAWA_HOME."""

    _held: ExitStack = PrivateAttr(default_factory=ExitStack)
    _opened: Project | None = PrivateAttr(default=None)
    """What the stages of a run share; a tick opens its own each time."""
    _shares: bool = PrivateAttr(default=False)

    def setup_for_execution(self, context: InitResourceContext) -> None:
        """For as long as a run lasts nobody forgets a request under its feet; it waits for one who is at it.

        A tick does not wait: what it writes it guards itself (`sensors.new_recordings`).
        """
        if context.run_id is None:
            return
        try:
            self._held.enter_context(in_use(self.location.root))
            self._shares = True
        except BusyError as error:
            raise Failure(str(error), allow_retries=False) from None

    def teardown_after_execution(self, context: InitResourceContext) -> None:
        self._held.close()

    def open(self) -> Project:
        """The project as qbawa.yaml describes it now. Stages of one run share its lake as long as the file stays as it is."""
        before = self._opened
        if before is not None and load_config(self.location.config) == before.config:
            return before
        opened = open_project(self.location)
        if self._shares:
            self._opened = opened
        return opened

    @property
    def location(self) -> Home:
        return Home(Path(self.home).resolve()) if self.home else Home.find()
