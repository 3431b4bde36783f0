"""The actor by which a cluster knows a run: its name is taken while the run lives."""


class ControlActor:
    def __init__(self, folder: str) -> None:
        self._folder = folder

    def folder(self) -> str:
        return self._folder
