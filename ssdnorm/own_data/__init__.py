"""From a folder of labelled pictures to a config that fits them."""
