"""Imported by the fork server, first of all: from here on the server dies with the process that started it."""

from ml_pipelines.forking import die_with_parent

die_with_parent()
