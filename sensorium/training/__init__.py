"""Training of one fold: loop, recipe, distillation, exact resume. Knows no tracking server."""
