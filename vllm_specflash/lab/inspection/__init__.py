"""One answer looked at closely: `specflash inspect`."""
