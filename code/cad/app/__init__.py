"""The page of app.py: trained weights in a browser, on this machine alone."""
