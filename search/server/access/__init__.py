"""Who may read and change studies over the web: one rule for the HTTP API, the front page and the dashboard.

`token` is the secret and where it comes from, `gate` judges a request, `tries` slows down who guesses, `login` is the
form for browsers.
"""
