"""Settings of every test."""

from hypothesis import settings

# No test asserts a time: a busy machine must not fail a property.
settings.register_profile("gmvaluator", deadline=None)
settings.load_profile("gmvaluator")
