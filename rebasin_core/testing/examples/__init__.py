"""Small instances of registered classes, for the conformance kit."""
