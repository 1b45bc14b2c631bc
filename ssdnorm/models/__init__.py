"""SSD, put together from layers."""
