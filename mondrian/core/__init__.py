"""Parameters, errors, files, images and pages of HTML: it imports no other package of mondrian."""
