"""SSD networks, their checkpoints and exports."""
