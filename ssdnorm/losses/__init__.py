"""The multibox loss and its choice of negatives."""
