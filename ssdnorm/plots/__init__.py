"""Pictures and figures: one style for boxes on photographs, one for diagrams."""
