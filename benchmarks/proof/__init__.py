"""The parts of ``make gpu``: what is run on a GPU, what is kept of it, and the page that says what was found."""
