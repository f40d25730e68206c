"""Scripts that make tables of many recorded runs."""
