"""A plugin that cannot be imported."""

import a_module_that_does_not_exist  # ruff: ignore[unused-import]
