"""Tables made of many recorded runs."""
