"""Arms × seeds → an answer with its uncertainty: the controlled comparison of normalisation choices."""
