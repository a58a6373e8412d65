"""Errors of the API: a status, an error code and a message."""


class ApiError(Exception):
    """An error response in the format of the API."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def invalid(message: str) -> ApiError:
    """Return the error for an invalid payload."""
    return ApiError(400, "INVALID_PARAMETER_VALUE", message)


def missing(message: str) -> ApiError:
    """Return the error for something that does not exist."""
    return ApiError(404, "RESOURCE_DOES_NOT_EXIST", message)


class TaskFault(Exception):
    """A task can't run, although its code is right: it has no cluster, or a library can't be installed."""
