"""Fixtures for all tests. Not in tests/, as tests/servers has a conftest of its own."""

pytest_plugins = ["command_line", "quick", "workers"]
