"""Parameters within a radius that need fewer units."""
