"""One page that shows what came out: figures as PNG files, and an HTML file that holds them all."""
