"""The embedded model of Triptych: its finished files and the recipe that trains it."""
