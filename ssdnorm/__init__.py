"""SSD object detectors with every normalisation choice as a slot that is honoured or refused."""

__version__ = "0.1.0"
