"""Parameters, errors, files, images, processes and HTML; imports no other package of mondrian."""
