"""What the API answers when it refuses: a status, an error code and a sentence."""


class ApiError(Exception):
    """An answer other than 200, in the API's own form."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def invalid(message: str) -> ApiError:
    """Return the refusal of a payload."""
    return ApiError(400, "INVALID_PARAMETER_VALUE", message)


def missing(message: str) -> ApiError:
    """Return the answer to a question about something that isn't there."""
    return ApiError(404, "RESOURCE_DOES_NOT_EXIST", message)


class TaskFault(Exception):
    """A task that can't run through no fault of its own code: no cluster, or a library that can't be installed."""
