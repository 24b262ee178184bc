"""A pytest plugin for openai-python's tests: their clients call with the key in SLUICE_KEY.

The base URL can be set from outside (TEST_API_BASE_URL), the keys are constants of their conftest.
"""

import os


def pytest_plugin_registered(plugin):
    if getattr(plugin, "admin_api_key", None) == "My Admin API Key":
        plugin.api_key = plugin.admin_api_key = os.environ["SLUICE_KEY"]
