"""Small instances of registered classes, on which the conformance kit tries its laws."""
