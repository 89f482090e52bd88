"""From files to plain arrays: wavelengths, fluxes, errors and masks of tables, images and files of surveys."""
