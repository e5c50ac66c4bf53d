"""Errors a user can act on: each names what is wrong, where, and the remedy."""


class UelocError(Exception):
    """Base of every error that the project raises on bad input.

    Parameters
    ----------
    problem
        What is wrong, with the value that was found.
    where
        The file, key or field that holds it.
    remedy
        What the user can do about it.
    """

    def __init__(self, problem: str, *, where: str = "", remedy: str = "") -> None:
        self.problem = problem
        self.where = where
        self.remedy = remedy
        message = f"{where}: {problem}" if where else problem
        super().__init__(f"{message}. {remedy}" if remedy else message)


class CityError(UelocError):
    """A city file is missing, unreadable or wrong."""


class GeodataError(UelocError):
    """An OpenStreetMap extract is missing, broken or empty."""


class SceneError(UelocError):
    """A scene cannot be built from the features it was given."""


class RadioError(UelocError):
    """Sites, sectors or radio maps are unusable."""


class ReportError(UelocError):
    """Measurement reports are unusable."""


class ModelError(UelocError):
    """A trained model is missing or does not fit its inputs."""


class StoreError(UelocError):
    """An artifact is missing, corrupt, or cannot be written."""
