"""What several test files use. pytest puts `tests/` on the path (`pythonpath` in pyproject.toml), so that a test says

    from helpers.gradients import value_and_gradient

No helper imports a constant of the code under test: expected values come from the tests.
"""
