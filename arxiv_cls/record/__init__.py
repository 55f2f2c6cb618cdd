"""Records: what the files of a model directory may hold, checked before anything is made of them."""
